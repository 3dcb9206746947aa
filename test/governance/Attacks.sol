// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IAccessManaged} from "@openzeppelin/contracts/access/manager/IAccessManaged.sol";
import {IAccessManager} from "@openzeppelin/contracts/access/manager/IAccessManager.sol";
import {IFeeSplitter} from "../../contracts/interfaces/IFeeSplitter.sol";
import {IInferenceEscrow} from "../../contracts/interfaces/IInferenceEscrow.sol";
import {INodeRegistry} from "../../contracts/interfaces/INodeRegistry.sol";
import {ISettlementLedger} from "../../contracts/interfaces/ISettlementLedger.sol";
import {Access} from "../../script/Access.sol";

/// @notice Random arguments for every privileged function of contracts/access.json, biased towards what could hurt.
contract Attacks {
    error NoAttackFor(string signature);

    address[] private _places;
    address[] private _people;
    bytes32[] private _ids;

    constructor(address[] memory places, address[] memory people, bytes32[] memory ids) {
        (_places, _people, _ids) = (places, people, ids);
    }

    /// @notice Calldata of one attack. Reverts for a function that nobody has thought of here.
    function make(string memory signature, uint256 seed) external view returns (bytes memory) {
        bytes4 s = Access.selector(signature);
        if (s == INodeRegistry.setVerifier.selector) return abi.encodeWithSelector(s, _person(seed), _bit(seed));
        if (s == INodeRegistry.setMirrorVerifier.selector) return abi.encodeWithSelector(s, _person(seed));
        if (s == INodeRegistry.setMirrors.selector) return abi.encodeWithSelector(s, _signers(seed), uint8(1));
        if (s == INodeRegistry.revoke.selector) return abi.encodeWithSelector(s, _ids[(seed >> 8) % _ids.length]);
        if (s == IInferenceEscrow.pause.selector) {
            return abi.encodeWithSelector(s, uint40(block.timestamp + (seed >> 8) % 8 days));
        }
        if (s == ISettlementLedger.setFee.selector) {
            return abi.encodeWithSelector(s, uint16((seed >> 8) % 103), _person(seed >> 32));
        }
        if (s == IFeeSplitter.setShares.selector) return abi.encodeWithSelector(s, _shares(seed));
        if (s == IAccessManaged.setAuthority.selector) return abi.encodeWithSelector(s, _person(seed));
        return _onManager(signature, s, seed);
    }

    function _onManager(string memory signature, bytes4 s, uint256 seed) private view returns (bytes memory) {
        uint64 role = uint64((seed >> 8) % 3);
        if (s == IAccessManager.setTargetFunctionRole.selector) {
            return abi.encodeWithSelector(s, _place(seed), _selectors(seed), role);
        }
        if (s == IAccessManager.setTargetClosed.selector) return abi.encodeWithSelector(s, _place(seed), _bit(seed));
        if (s == IAccessManager.updateAuthority.selector) {
            return abi.encodeWithSelector(s, _place(seed), _people[3]);
        }
        if (s == IAccessManager.setTargetAdminDelay.selector) return abi.encodeWithSelector(s, _place(seed), 0);
        if (s == IAccessManager.grantRole.selector) return abi.encodeWithSelector(s, role, _person(seed >> 32), 0);
        if (s == IAccessManager.revokeRole.selector) return abi.encodeWithSelector(s, role, _people[2]);
        if (s == IAccessManager.labelRole.selector) return abi.encodeWithSelector(s, uint64(1), "everybody");
        if (s == IAccessManager.setGrantDelay.selector) return abi.encodeWithSelector(s, uint64(1 + role), 0);
        if (s == IAccessManager.setRoleAdmin.selector || s == IAccessManager.setRoleGuardian.selector) {
            return abi.encodeWithSelector(s, uint64(1), role);
        }
        revert NoAttackFor(signature);
    }

    function _bit(uint256 seed) private pure returns (bool) {
        return seed & 1 == 1;
    }

    function _person(uint256 seed) private view returns (address) {
        uint256 i = (seed >> 8) % (_people.length + 1);
        return i == _people.length ? address(uint160(uint256(keccak256(abi.encode(seed))))) : _people[i];
    }

    function _place(uint256 seed) private view returns (address) {
        return _places[(seed >> 16) % _places.length];
    }

    function _signers(uint256 seed) private view returns (address[] memory signers) {
        signers = new address[](1);
        signers[0] = _person(seed);
    }

    /// @dev What payers, nodes and strangers need most.
    function _selectors(uint256 seed) private pure returns (bytes4[] memory selectors) {
        bytes4[8] memory all = [
            IInferenceEscrow.withdraw.selector,
            IInferenceEscrow.reclaim.selector,
            IInferenceEscrow.unlock.selector,
            IInferenceEscrow.credit.selector,
            IInferenceEscrow.hold.selector,
            IInferenceEscrow.cancelNonces.selector,
            IFeeSplitter.claim.selector,
            INodeRegistry.setPayout.selector
        ];
        selectors = new bytes4[](2);
        (selectors[0], selectors[1]) = (all[(seed >> 24) % 8], all[(seed >> 28) % 8]);
    }

    function _shares(uint256 seed) private view returns (IFeeSplitter.Share[] memory shares) {
        shares = new IFeeSplitter.Share[](1);
        shares[0] = IFeeSplitter.Share(_person(seed), 10_000);
    }
}
