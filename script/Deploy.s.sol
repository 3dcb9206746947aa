// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IAccessManager} from "@openzeppelin/contracts/access/manager/IAccessManager.sol";
import {Script} from "forge-std/Script.sol";
import {IFeeSplitter} from "../contracts/interfaces/IFeeSplitter.sol";
import {IDeployer} from "../contracts/interfaces/IDeployer.sol";
import {IDisputeGame} from "../contracts/interfaces/IDisputeGame.sol";
import {IInferenceEscrow} from "../contracts/interfaces/IInferenceEscrow.sol";
import {IKeeperRegistry} from "../contracts/interfaces/IKeeperRegistry.sol";
import {INodeRegistry} from "../contracts/interfaces/INodeRegistry.sol";
import {ISettlementInbox} from "../contracts/interfaces/ISettlementInbox.sol";
import {ISettlementLedger} from "../contracts/interfaces/ISettlementLedger.sol";
import {IX402Forwarder} from "../contracts/interfaces/IX402Forwarder.sol";
import {Access} from "./Access.sol";
import {Artifacts} from "./Artifacts.sol";

/// @notice Deploys the Base side with the production periods.
/// @dev forge script script/Deploy.s.sol --sig "base(address,address,address,uint128)" ADMIN GUARDIAN BOND_TOKEN SLASH --rpc-url URL --account KEYSTORE --broadcast
///      forge script script/Deploy.s.sol --sig "inbox(address)" TEE_REGISTRY --rpc-url OPENGRADIENT --account KEYSTORE --broadcast
///      forge script script/Deploy.s.sol --sig "forwarder(address,address[])" OWNER "[KEY,KEY]" --rpc-url URL --account KEYSTORE --broadcast
///      Contracts check only how their periods relate, so that a devnet can use seconds; the floors are here.
contract Deploy is Script {
    struct Base {
        IAccessManager manager;
        INodeRegistry nodes;
        address verifier;
        IInferenceEscrow escrow;
        ISettlementLedger ledger;
        IDisputeGame game;
        IKeeperRegistry keepers;
        IFeeSplitter splitter;
    }

    struct Periods {
        uint40 window;
        /// Time that a challenge leaves to answer it.
        uint40 response;
        /// For which only a verified settlement can capture the money of a void row.
        uint40 reopen;
        /// From scheduling what the admin does to doing it.
        uint32 adminDelay;
        uint40 feeEpoch;
        uint40 grace;
        IInferenceEscrow.Periods escrow;
    }

    struct Bonds {
        address token;
        uint128 slash;
    }

    error PeriodTooShort(string name, uint40 actual, uint40 floor);
    error PeriodTooLong(string name, uint40 actual, uint40 ceiling);
    error ZeroAddress();
    /// @notice The deployer gives everything up, so it cannot be the admin.
    error AdminDeploys(address admin);
    /// @notice A stolen key must not be able to add others.
    error OwnerForwards(address owner);
    error ZeroSlash();
    error WrongAddress(address actual, address expected);

    /// @dev The same on every chain, and where signers of deposits expect it.
    address public constant PERMIT2 = 0x000000000022D473030F116dDEE9F6B43aC78BA3;
    uint64 public constant ADMIN_ROLE = 0;
    uint64 public constant GUARDIAN_ROLE = 1;

    /// @notice The periods of a real network, seconds.
    function production() public pure returns (Periods memory) {
        return Periods({
            window: 24 hours,
            response: 24 hours,
            reopen: 24 hours,
            adminDelay: 7 days,
            feeEpoch: 7 days,
            grace: 1 hours,
            escrow: IInferenceEscrow.Periods({
                maxLock: 7 days,
                lockTail: 1 days,
                minCaptureTime: 10 minutes,
                maxOrderAge: 300,
                maxOrderLife: 3 days,
                maxPause: 7 days,
                pauseGap: 30 days
            })
        });
    }

    /// @notice Reverts unless the periods protect payers and nodes on a real network.
    function check(Periods memory periods) public pure {
        _floor("window", periods.window, 24 hours);
        _floor("response", periods.response, 24 hours);
        _floor("reopen", periods.reopen, 24 hours);
        // Whatever was ordered before the admin showed what it wants is over before it comes true, though it was captured at its deadline,
        // challenged at the end of the window, and held once more.
        _floor(
            "adminDelay",
            periods.adminDelay,
            periods.escrow.maxOrderLife + periods.window + periods.response + periods.reopen + 1
        );
        // And so is every lock.
        _ceiling("maxLock", periods.escrow.maxLock, periods.adminDelay);
        _floor("feeEpoch", periods.feeEpoch, 1 days);
        _floor("grace", periods.grace, 10 minutes);
        _ceiling("grace", periods.grace, 1 days);
        _ceiling("maxLock", periods.escrow.maxLock, 7 days);
        _floor("lockTail", periods.escrow.lockTail, 1 hours);
        _floor("minCaptureTime", periods.escrow.minCaptureTime, 10 minutes);
        _ceiling("maxOrderAge", periods.escrow.maxOrderAge, 300);
        _floor("maxOrderLife", periods.escrow.maxOrderLife, 24 hours);
        _ceiling("maxPause", periods.escrow.maxPause, 7 days);
        _floor("pauseGap", periods.escrow.pauseGap, 30 days);
    }

    /// @notice Deploys the Base side. What `admin` (a multisig) does waits `adminDelay` in the AccessManager, which is the timelock;
    ///         `guardian` can revoke nodes and pause deposits, locks and `openOrder`. Fees are 0 and go to a splitter whose
    ///         only share is the admin's until it names others.
    /// @param bondToken Token of the keepers' bonds.
    /// @param slash What one unproven row costs a keeper, in that token's smallest unit.
    function base(address admin, address guardian, address bondToken, uint128 slash)
        external
        returns (Base memory deployed)
    {
        return base(admin, guardian, Bonds(bondToken, slash), production());
    }

    /// @notice As above with other periods, which must pass `check`.
    function base(address admin, address guardian, Bonds memory bond, Periods memory periods)
        public
        returns (Base memory deployed)
    {
        require(admin != address(0) && guardian != address(0) && bond.token != address(0), ZeroAddress());
        require(bond.slash != 0, ZeroSlash());
        check(periods);
        vm.startBroadcast();
        (, address sender,) = vm.readCallers();
        require(admin != sender, AdminDeploys(admin));
        deployed.manager = IAccessManager(Artifacts.deploy("AccessManager", abi.encode(sender)));
        deployed.nodes =
            INodeRegistry(Artifacts.deploy("NodeRegistry", abi.encode(address(deployed.manager), periods.grace)));
        deployed.verifier = Artifacts.deploy("RsaPssVerifier");
        deployed.nodes.setVerifier(deployed.verifier, true);
        deployed.nodes.setMirrorVerifier(deployed.verifier);

        _createSet(deployed, periods, bond, sender);

        IFeeSplitter.Share[] memory shares = new IFeeSplitter.Share[](1);
        shares[0] = IFeeSplitter.Share(admin, 10_000);
        deployed.splitter = IFeeSplitter(
            Artifacts.deploy("FeeSplitter", abi.encode(deployed.escrow, deployed.manager, periods.feeEpoch, shares))
        );
        deployed.ledger.setFee(0, address(deployed.splitter));

        _guard(deployed.manager, "NodeRegistry", address(deployed.nodes));
        _guard(deployed.manager, "InferenceEscrow", address(deployed.escrow));
        deployed.manager.grantRole(GUARDIAN_ROLE, guardian, 0);
        // The deployer keeps nothing.
        deployed.manager.grantRole(ADMIN_ROLE, admin, periods.adminDelay);
        deployed.manager.renounceRole(ADMIN_ROLE, sender);
        vm.stopBroadcast();
    }

    /// @notice Deploys the OpenGradient side over OpenGradient's own TEE registry.
    function inbox(address teeRegistry) external returns (ISettlementInbox deployed) {
        vm.startBroadcast();
        deployed = ISettlementInbox(Artifacts.deploy("SettlementInbox", abi.encode(teeRegistry)));
        vm.stopBroadcast();
    }

    /// @notice Deploys an x402 forwarder, on any network, at the address that owner and first keys determine.
    /// @param owner Adds and removes keys (a multisig); no key itself.
    function forwarder(address owner, address[] memory keys) external returns (IX402Forwarder deployed) {
        for (uint256 i; i < keys.length; ++i) {
            require(keys[i] != owner, OwnerForwards(owner));
        }
        vm.startBroadcast();
        deployed = IX402Forwarder(Artifacts.deploySalted("X402Forwarder", abi.encode(owner, keys), 0));
        vm.stopBroadcast();
    }

    /// @dev Gives the guardian what contracts/access.json says; the admin has all other restricted functions by default.
    function _guard(IAccessManager manager, string memory name, address target) private {
        manager.setTargetFunctionRole(target, Access.selectorsOf(name, "guardian"), GUARDIAN_ROLE);
    }

    /// @dev The contracts that know each other, in the order of their nonces.
    function _createSet(Base memory deployed, Periods memory periods, Bonds memory bond, address sender) private {
        IDeployer deployer = IDeployer(Artifacts.deploySalted("Deployer", abi.encode(sender), 0));
        address[] memory at = new address[](4);
        for (uint256 i; i < 4; ++i) {
            at[i] = deployer.addressAt(i + 1);
        }
        // In two transactions: all four come close to what one may cost.
        bytes[] memory initcodes = new bytes[](2);
        initcodes[0] =
            Artifacts.initcode("InferenceEscrow", abi.encode(at[1], periods.escrow, PERMIT2, deployed.manager));
        initcodes[1] = Artifacts.initcode(
            "SettlementLedger",
            abi.encode(at[0], deployed.nodes, at[3], at[2], periods.window, address(deployed.manager))
        );
        _create(deployer, initcodes, at, 0);
        initcodes[0] = Artifacts.initcode("DisputeGame", abi.encode(at[1], periods.response, periods.reopen));
        initcodes[1] = Artifacts.initcode("KeeperRegistry", abi.encode(at[1], at[2], bond.token, bond.slash));
        _create(deployer, initcodes, at, 2);
        deployed.escrow = IInferenceEscrow(at[0]);
        deployed.ledger = ISettlementLedger(at[1]);
        deployed.game = IDisputeGame(at[2]);
        deployed.keepers = IKeeperRegistry(at[3]);
    }

    function _create(IDeployer deployer, bytes[] memory initcodes, address[] memory at, uint256 from) private {
        address[] memory created = deployer.deploy(initcodes);
        for (uint256 i; i < created.length; ++i) {
            require(created[i] == at[from + i], WrongAddress(created[i], at[from + i]));
        }
    }

    function _floor(string memory name, uint40 actual, uint40 floor) private pure {
        require(actual >= floor, PeriodTooShort(name, actual, floor));
    }

    function _ceiling(string memory name, uint40 actual, uint40 ceiling) private pure {
        require(actual <= ceiling, PeriodTooLong(name, actual, ceiling));
    }
}
