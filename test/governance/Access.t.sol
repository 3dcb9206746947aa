// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IAccessManaged} from "@openzeppelin/contracts/access/manager/IAccessManaged.sol";
import {IAccessManager} from "@openzeppelin/contracts/access/manager/IAccessManager.sol";
import {Test} from "forge-std/Test.sol";
import {IKeeperRegistry} from "../../contracts/interfaces/IKeeperRegistry.sol";
import {ISettlementLedger} from "../../contracts/interfaces/ISettlementLedger.sol";
import {IInferenceEscrow} from "../../contracts/interfaces/IInferenceEscrow.sol";
import {IX402Forwarder} from "../../contracts/interfaces/IX402Forwarder.sol";
import {Access} from "../../script/Access.sol";
import {Artifacts} from "../../script/Artifacts.sol";
import {Deploy} from "../../script/Deploy.s.sol";

/// @notice Holds what `script/Deploy.s.sol` deploys to contracts/access.json: what the table calls restricted is, nothing else is, and
///         nobody but its role gets in. `bindings/tests/access.rs` checks that the table names every function there is.
contract AccessTest is Test {
    string[13] private _classes = [
        "admin",
        "guardian",
        "ledger",
        "deployer",
        "payer",
        "operator",
        "keeper",
        "recipient",
        "anyone",
        "view",
        "disputes",
        "owner",
        "key"
    ];
    address private _admin = makeAddr("admin");
    address private _guardian = makeAddr("guardian");
    address private _stranger = makeAddr("stranger");
    Deploy private _script;
    mapping(string name => address) private _at;

    function setUp() public {
        vm.warp(1_800_000_000);
        vm.etch(
            0x4e59b44847b379578588920cA78FbF26c0B4956C,
            hex"7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe03601600081602082378035828234f58015156039578182fd5b8082525050506014600cf3"
        );
        _script = new Deploy();
        Deploy.Base memory base = _script.base(_admin, _guardian, makeAddr("bond token"), 100e6);
        _at["AccessManager"] = address(base.manager);
        _at["NodeRegistry"] = address(base.nodes);
        _at["KeeperRegistry"] = address(base.keepers);
        _at["InferenceEscrow"] = address(base.escrow);
        _at["SettlementLedger"] = address(base.ledger);
        _at["DisputeGame"] = address(base.game);
        _at["FeeSplitter"] = address(base.splitter);
        _at["RsaPssVerifier"] = base.verifier;
        _at["NeutralCaller"] = base.escrow.neutralCaller();
        _at["ERC7913P256Verifier"] = Artifacts.deploy("ERC7913P256Verifier");
        _at["Deployer"] = Artifacts.deploy("Deployer", abi.encode(address(this)));
        _at["X402Forwarder"] = address(_script.forwarder(makeAddr("forwarder owner"), new address[](0)));
        _at["SettlementInbox"] = address(_script.inbox(address(base.nodes)));
    }

    /// @dev Every function of every contract, called by a stranger: refused for its role exactly where the table says so.
    function test_strangers_areRefusedByRole_exactlyAsListed() public {
        string[] memory contracts = Access.contracts();
        uint256 restricted;
        for (uint256 i; i < contracts.length; ++i) {
            for (uint256 c; c < _classes.length; ++c) {
                string[] memory functions = Access.functionsOf(contracts[i], _classes[c]);
                for (uint256 f; f < functions.length; ++f) {
                    bytes4 reason = _call(_stranger, contracts[i], functions[f]);
                    assertEq(_isRole(reason), c < 2, string.concat(contracts[i], ".", functions[f], " ", _classes[c]));
                    if (c < 2) ++restricted;
                }
            }
        }
        assertGe(restricted, 18);
    }

    /// @dev The guardian reaches its own functions and no other role's.
    function test_guardian_reachesItsOwnFunctionsOnly() public {
        string[] memory contracts = Access.contracts();
        for (uint256 i; i < contracts.length; ++i) {
            for (uint256 c; c < 2; ++c) {
                string[] memory functions = Access.functionsOf(contracts[i], _classes[c]);
                for (uint256 f; f < functions.length; ++f) {
                    bytes4 reason = _call(_guardian, contracts[i], functions[f]);
                    assertEq(_isRole(reason), c == 0, string.concat(contracts[i], ".", functions[f]));
                }
            }
        }
    }

    /// @dev The admin gets nowhere at once, and not at all to what is the guardian's. Authorities are changed through the manager alone.
    function test_admin_waitsEverywhere() public {
        string[] memory contracts = Access.contracts();
        for (uint256 i; i < contracts.length; ++i) {
            string[] memory functions = Access.functionsOf(contracts[i], "admin");
            for (uint256 f; f < functions.length; ++f) {
                bytes4 reason = _call(_admin, contracts[i], functions[f]);
                bytes4 expected = Access.selector(functions[f]) == IAccessManaged.setAuthority.selector
                    ? IAccessManaged.AccessManagedUnauthorized.selector
                    : IAccessManager.AccessManagerNotScheduled.selector;
                assertEq(reason, expected, string.concat(contracts[i], ".", functions[f]));
            }
            functions = Access.functionsOf(contracts[i], "guardian");
            for (uint256 f; f < functions.length; ++f) {
                assertTrue(_isRole(_call(_admin, contracts[i], functions[f])), functions[f]);
            }
        }
    }

    /// @dev Captured money is the ledger's to move, and the ledger has no role.
    function test_ledgerFunctions_areTheLedgersAlone() public {
        string[] memory functions = Access.functionsOf("InferenceEscrow", "ledger");
        address[3] memory others = [_stranger, _admin, _guardian];
        for (uint256 f; f < functions.length; ++f) {
            for (uint256 i; i < others.length; ++i) {
                assertEq(_call(others[i], "InferenceEscrow", functions[f]), IInferenceEscrow.OnlyLedger.selector);
            }
        }
        assertEq(IInferenceEscrow(_at["InferenceEscrow"]).ledger(), _at["SettlementLedger"]);
    }

    /// @dev What the dispute game does to rows and bonds nobody else does; the registry's books are the ledger's.
    function test_disputeFunctions_areTheGamesAlone() public {
        _assertRefused("SettlementLedger", "disputes", 4, ISettlementLedger.OnlyDisputes.selector);
        _assertRefused("KeeperRegistry", "disputes", 1, IKeeperRegistry.NotAllowed.selector);
        _assertRefused("KeeperRegistry", "ledger", 2, IKeeperRegistry.NotAllowed.selector);
        assertEq(ISettlementLedger(_at["SettlementLedger"]).disputes(), _at["DisputeGame"]);
        assertEq(IKeeperRegistry(_at["KeeperRegistry"]).disputes(), _at["DisputeGame"]);
        assertEq(IKeeperRegistry(_at["KeeperRegistry"]).ledger(), _at["SettlementLedger"]);
    }

    /// @dev The forwarder stands apart: none of the others' roles reaches it.
    function test_forwarderFunctions_areItsOwnersAndKeysAlone() public {
        _assertRefused("X402Forwarder", "key", 1, IX402Forwarder.NotKey.selector);
        address[3] memory others = [_stranger, _admin, _guardian];
        for (uint256 i; i < others.length; ++i) {
            bytes4 reason = _call(others[i], "X402Forwarder", "setKey(address,bool)");
            assertEq(reason, IX402Forwarder.NotOwner.selector);
            reason = _call(others[i], "X402Forwarder", "transferOwnership(address)");
            assertEq(reason, IX402Forwarder.NotOwner.selector);
            reason = _call(others[i], "X402Forwarder", "acceptOwnership()");
            assertEq(reason, IX402Forwarder.NotPendingOwner.selector);
        }
    }

    function _assertRefused(string memory name, string memory who, uint256 count, bytes4 reason) private {
        string[] memory functions = Access.functionsOf(name, who);
        assertEq(functions.length, count);
        address[3] memory others = [_stranger, _admin, _guardian];
        for (uint256 f; f < functions.length; ++f) {
            for (uint256 i; i < others.length; ++i) {
                assertEq(_call(others[i], name, functions[f]), reason, functions[f]);
            }
        }
    }

    /// @dev Arguments that decode as zeros and empty lists: roles are asked first.
    function _call(address caller, string memory name, string memory signature) private returns (bytes4 reason) {
        address target = _at[name];
        require(target != address(0), string.concat("deploy it in setUp: ", name));
        vm.prank(caller);
        (bool success, bytes memory answer) = target.call(bytes.concat(Access.selector(signature), new bytes(64 * 32)));
        return success ? bytes4(0) : bytes4(answer);
    }

    function _isRole(bytes4 reason) private pure returns (bool) {
        return reason == IAccessManaged.AccessManagedUnauthorized.selector
            || reason == IAccessManager.AccessManagerUnauthorizedAccount.selector
            || reason == IInferenceEscrow.NotGuardian.selector;
    }
}
