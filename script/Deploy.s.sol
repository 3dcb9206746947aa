// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IAccessManager} from "@openzeppelin/contracts/access/manager/IAccessManager.sol";
import {Script} from "forge-std/Script.sol";
import {IDeployer} from "../contracts/interfaces/IDeployer.sol";
import {IInferenceEscrow} from "../contracts/interfaces/IInferenceEscrow.sol";
import {IKeeperRegistry} from "../contracts/interfaces/IKeeperRegistry.sol";
import {INodeRegistry} from "../contracts/interfaces/INodeRegistry.sol";
import {ISettlementInbox} from "../contracts/interfaces/ISettlementInbox.sol";
import {ISettlementLedger} from "../contracts/interfaces/ISettlementLedger.sol";
import {Artifacts} from "./Artifacts.sol";

/// @notice Deploys the Base side with the production periods.
/// @dev forge script script/Deploy.s.sol --sig "base(address,address)" ADMIN GUARDIAN --rpc-url URL --account KEYSTORE --broadcast
///      forge script script/Deploy.s.sol --sig "inbox(address)" TEE_REGISTRY --rpc-url OPENGRADIENT --account KEYSTORE --broadcast
///      Contracts check only how their periods relate, so that a devnet can use seconds; the floors are here.
contract Deploy is Script {
    struct Base {
        IAccessManager manager;
        INodeRegistry nodes;
        IKeeperRegistry keepers;
        address verifier;
        IInferenceEscrow escrow;
        ISettlementLedger ledger;
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
    uint64 public constant ADMIN_ROLE = 0;
    uint64 public constant GUARDIAN_ROLE = 1;

    /// @notice The periods of a real network, seconds.
    function production() public pure returns (Periods memory) {
        return Periods({
            window: 24 hours,
            grace: 1 hours,
            escrow: IInferenceEscrow.Periods({
                maxLock: 7 days,
                lockTail: 1 days,
                minCaptureTime: 10 minutes,
                maxOrderAge: 300,
                maxPause: 7 days,
                pauseGap: 30 days
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
        _ceiling("maxPause", periods.escrow.maxPause, 7 days);
        _floor("pauseGap", periods.escrow.pauseGap, 30 days);
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
        deployed.manager = IAccessManager(Artifacts.deploy("AccessManager", abi.encode(sender)));
        deployed.nodes =
            INodeRegistry(Artifacts.deploy("NodeRegistry", abi.encode(address(deployed.manager), periods.grace)));
        deployed.keepers = IKeeperRegistry(Artifacts.deploy("KeeperRegistry"));
        deployed.verifier = Artifacts.deploy("RsaPssVerifier");
        deployed.nodes.setVerifier(deployed.verifier, true);
        deployed.nodes.setMirrorVerifier(deployed.verifier);

        IDeployer deployer = IDeployer(Artifacts.deploySalted("Deployer", abi.encode(sender), 0));
        address escrow = deployer.addressAt(1);
        address ledger = deployer.addressAt(2);
        bytes[] memory initcodes = new bytes[](2);
        initcodes[0] =
            Artifacts.initcode("InferenceEscrow", abi.encode(ledger, periods.escrow, PERMIT2, deployed.manager));
        initcodes[1] = Artifacts.initcode(
            "SettlementLedger", abi.encode(escrow, deployed.nodes, deployed.keepers, periods.window, deployed.manager)
        );
        address[] memory created = deployer.deploy(initcodes);
        require(created[0] == escrow, WrongAddress(created[0], escrow));
        require(created[1] == ledger, WrongAddress(created[1], ledger));
        deployed.escrow = IInferenceEscrow(escrow);
        deployed.ledger = ISettlementLedger(ledger);

        bytes4[] memory guarded = new bytes4[](1);
        guarded[0] = INodeRegistry.revoke.selector;
        deployed.manager.setTargetFunctionRole(address(deployed.nodes), guarded, GUARDIAN_ROLE);
        guarded = new bytes4[](1);
        guarded[0] = IInferenceEscrow.pause.selector;
        deployed.manager.setTargetFunctionRole(escrow, guarded, GUARDIAN_ROLE);
        deployed.manager.grantRole(GUARDIAN_ROLE, guardian, 0);
        // The deployer keeps nothing.
        deployed.manager.grantRole(ADMIN_ROLE, admin, 0);
        if (admin != sender) deployed.manager.renounceRole(ADMIN_ROLE, sender);
        vm.stopBroadcast();
    }

    /// @notice Deploys the OpenGradient side over OpenGradient's own TEE registry.
    function inbox(address teeRegistry) external returns (ISettlementInbox deployed) {
        vm.startBroadcast();
        deployed = ISettlementInbox(Artifacts.deploy("SettlementInbox", abi.encode(teeRegistry)));
        vm.stopBroadcast();
    }

    function _floor(string memory name, uint40 actual, uint40 floor) private pure {
        require(actual >= floor, PeriodTooShort(name, actual, floor));
    }

    function _ceiling(string memory name, uint40 actual, uint40 ceiling) private pure {
        require(actual <= ceiling, PeriodTooLong(name, actual, ceiling));
    }
}
