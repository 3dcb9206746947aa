// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {AccessManager} from "@openzeppelin/contracts/access/manager/AccessManager.sol";
import {Script} from "forge-std/Script.sol";
import {Deployer} from "../contracts/base/Deployer.sol";
import {InferenceEscrow} from "../contracts/base/InferenceEscrow.sol";
import {KeeperRegistry} from "../contracts/base/KeeperRegistry.sol";
import {NodeRegistry} from "../contracts/base/NodeRegistry.sol";
import {SettlementLedger} from "../contracts/base/SettlementLedger.sol";
import {IInferenceEscrow} from "../contracts/interfaces/IInferenceEscrow.sol";
import {INodeRegistry} from "../contracts/interfaces/INodeRegistry.sol";
import {SettlementInbox} from "../contracts/opengradient/SettlementInbox.sol";
import {RsaPssVerifier} from "../contracts/verifiers/RsaPssVerifier.sol";

/// @notice Deploys the Base side with the production periods.
/// @dev forge script script/Deploy.s.sol --sig "base(address,address)" ADMIN GUARDIAN --rpc-url URL --account KEYSTORE --broadcast
///      forge script script/Deploy.s.sol --sig "inbox(address)" TEE_REGISTRY --rpc-url OPENGRADIENT --account KEYSTORE --broadcast
///      Contracts check only how their periods relate, so that a devnet can use seconds; the floors are here.
contract Deploy is Script {
    struct Base {
        AccessManager manager;
        NodeRegistry nodes;
        KeeperRegistry keepers;
        RsaPssVerifier verifier;
        InferenceEscrow escrow;
        SettlementLedger ledger;
    }

    struct Periods {
        uint40 window;
        uint40 grace;
        IInferenceEscrow.Periods escrow;
    }

    error PeriodTooShort(string name, uint40 actual, uint40 floor);
    error PeriodTooLong(string name, uint40 actual, uint40 ceiling);
    error ZeroAddress();
    error WrongAddress(address actual, address expected);

    /// @dev The same on every chain, and where signers of deposits expect it.
    address public constant PERMIT2 = 0x000000000022D473030F116dDEE9F6B43aC78BA3;
    uint64 public constant GUARDIAN_ROLE = 1;

    /// @notice The periods of a real network, seconds.
    function production() public pure returns (Periods memory) {
        return Periods({
            window: 24 hours,
            grace: 1 hours,
            escrow: IInferenceEscrow.Periods({
                maxLock: 7 days, lockTail: 1 days, minCaptureTime: 10 minutes, maxOrderAge: 300
            })
        });
    }

    /// @notice Reverts unless the periods protect payers and nodes on a real network.
    function check(Periods memory periods) public pure {
        _floor("window", periods.window, 24 hours);
        _floor("grace", periods.grace, 10 minutes);
        _ceiling("grace", periods.grace, 1 days);
        _ceiling("maxLock", periods.escrow.maxLock, 7 days);
        _floor("lockTail", periods.escrow.lockTail, 1 hours);
        _floor("minCaptureTime", periods.escrow.minCaptureTime, 10 minutes);
        _ceiling("maxOrderAge", periods.escrow.maxOrderAge, 300);
    }

    /// @notice Deploys the Base side; `admin` (a timelock) administers the lists, `guardian` can revoke nodes.
    function base(address admin, address guardian) external returns (Base memory deployed) {
        return base(admin, guardian, production());
    }

    /// @notice As above with other periods, which must pass `check`.
    function base(address admin, address guardian, Periods memory periods) public returns (Base memory deployed) {
        require(admin != address(0) && guardian != address(0), ZeroAddress());
        check(periods);
        vm.startBroadcast();
        (, address sender,) = vm.readCallers();
        deployed.manager = new AccessManager(sender);
        deployed.nodes = new NodeRegistry(address(deployed.manager), periods.grace);
        deployed.keepers = new KeeperRegistry();
        deployed.verifier = new RsaPssVerifier();
        deployed.nodes.setVerifier(address(deployed.verifier), true);
        deployed.nodes.setMirrorVerifier(address(deployed.verifier));

        Deployer deployer = new Deployer{salt: 0}(sender);
        address escrow = deployer.addressAt(1);
        address ledger = deployer.addressAt(2);
        bytes[] memory initcodes = new bytes[](2);
        initcodes[0] = abi.encodePacked(type(InferenceEscrow).creationCode, abi.encode(ledger, periods.escrow, PERMIT2));
        initcodes[1] = abi.encodePacked(
            type(SettlementLedger).creationCode,
            abi.encode(escrow, deployed.nodes, deployed.keepers, periods.window, deployed.manager)
        );
        address[] memory created = deployer.deploy(initcodes);
        require(created[0] == escrow, WrongAddress(created[0], escrow));
        require(created[1] == ledger, WrongAddress(created[1], ledger));
        deployed.escrow = InferenceEscrow(escrow);
        deployed.ledger = SettlementLedger(ledger);

        bytes4[] memory guarded = new bytes4[](1);
        guarded[0] = INodeRegistry.revoke.selector;
        deployed.manager.setTargetFunctionRole(address(deployed.nodes), guarded, GUARDIAN_ROLE);
        deployed.manager.grantRole(GUARDIAN_ROLE, guardian, 0);
        // The deployer keeps nothing.
        deployed.manager.grantRole(deployed.manager.ADMIN_ROLE(), admin, 0);
        if (admin != sender) deployed.manager.renounceRole(deployed.manager.ADMIN_ROLE(), sender);
        vm.stopBroadcast();
    }

    /// @notice Deploys the OpenGradient side over OpenGradient's own TEE registry.
    function inbox(address teeRegistry) external returns (SettlementInbox deployed) {
        vm.startBroadcast();
        deployed = new SettlementInbox(teeRegistry);
        vm.stopBroadcast();
    }

    function _floor(string memory name, uint40 actual, uint40 floor) private pure {
        require(actual >= floor, PeriodTooShort(name, actual, floor));
    }

    function _ceiling(string memory name, uint40 actual, uint40 ceiling) private pure {
        require(actual <= ceiling, PeriodTooLong(name, actual, ceiling));
    }
}
