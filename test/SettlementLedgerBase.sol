// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Test} from "forge-std/Test.sol";
import {IAccessManager} from "@openzeppelin/contracts/access/manager/IAccessManager.sol";
import {IDisputeGame} from "../contracts/interfaces/IDisputeGame.sol";
import {IInferenceEscrow} from "../contracts/interfaces/IInferenceEscrow.sol";
import {INodeRegistry} from "../contracts/interfaces/INodeRegistry.sol";
import {ISettlementLedger} from "../contracts/interfaces/ISettlementLedger.sol";
import {Order, Lock} from "../contracts/libraries/Orders.sol";
import {Receipt as InferenceReceipt, Receipts} from "../contracts/libraries/Receipts.sol";
import {IKeeperRegistry} from "../contracts/interfaces/IKeeperRegistry.sol";
import {IERC7913SignatureVerifier} from "@openzeppelin/contracts/interfaces/IERC7913.sol";
import {Artifacts} from "../script/Artifacts.sol";
import {TestToken} from "./mocks/TestToken.sol";

/// @notice The real contracts of the order rail, nodes with P-256 and RSA keys, a keeper, payers with keys, and the usual steps.
abstract contract SettlementLedgerBase is Test {
    uint40 internal constant NOW = 1_800_000_000;
    uint40 internal constant WINDOW = 1 days;
    uint40 internal constant RESPONSE = 1 days;
    uint40 internal constant REOPEN = 1 days;
    uint40 internal constant GRACE = 1 hours;
    uint128 internal constant SLASH = 100e6;
    address internal constant PERMIT2 = 0x000000000022D473030F116dDEE9F6B43aC78BA3;
    uint256 private constant P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551;

    /// @dev A node as its operator knows it. `secret` is 0 for RSA nodes, which sign in test/vectors only.
    struct NodeKeys {
        bytes32 id;
        uint256 secret;
        uint256 meterSecret;
        address operator;
        address payout;
        uint32 version;
    }

    /// @dev Everything that one verified settlement takes.
    struct Settlement {
        Order order;
        bytes orderSignature;
        InferenceReceipt receipt;
        bytes inferenceSignature;
        bytes meterSignature;
    }

    IAccessManager internal manager;
    INodeRegistry internal nodes;
    IKeeperRegistry internal keepers;
    IInferenceEscrow internal escrow;
    ISettlementLedger internal ledger;
    IERC7913SignatureVerifier internal rsa;
    IERC7913SignatureVerifier internal p256;
    IDisputeGame internal game;
    TestToken internal bondToken;
    TestToken internal token;

    NodeKeys internal node;
    NodeKeys internal declared;
    address internal payer;
    uint256 internal payerKey;
    address internal hotKey = makeAddr("hot key");
    address internal stranger = makeAddr("stranger");
    address internal treasury = makeAddr("treasury");
    bytes32 internal keeperId;
    bytes32 internal otherKeeperId;

    function setUp() public virtual {
        vm.warp(NOW);
        vm.chainId(8453);
        manager = IAccessManager(Artifacts.deploy("AccessManager", abi.encode(address(this))));
        nodes = INodeRegistry(Artifacts.deploy("NodeRegistry", abi.encode(address(manager), GRACE)));
        bondToken = new TestToken();
        // Escrow, ledger, dispute game and keeper registry know each other.
        uint256 nonce = vm.getNonce(address(this));
        address expected = vm.computeCreateAddress(address(this), nonce + 1);
        address game_ = vm.computeCreateAddress(address(this), nonce + 2);
        address keepers_ = vm.computeCreateAddress(address(this), nonce + 3);
        IInferenceEscrow.Periods memory periods =
            IInferenceEscrow.Periods(7 days, 1 days, 10 minutes, 5 minutes, 3 days, 7 days, 30 days);
        escrow = IInferenceEscrow(Artifacts.deploy("InferenceEscrow", abi.encode(expected, periods, PERMIT2, manager)));
        ledger = ISettlementLedger(
            Artifacts.deploy("SettlementLedger", abi.encode(escrow, nodes, keepers_, game_, WINDOW, address(manager)))
        );
        require(address(ledger) == expected, "ledger address");
        game = IDisputeGame(Artifacts.deploy("DisputeGame", abi.encode(ledger, RESPONSE, REOPEN)));
        keepers = IKeeperRegistry(Artifacts.deploy("KeeperRegistry", abi.encode(ledger, game, bondToken, SLASH)));
        require(address(keepers) == keepers_, "registry address");
        rsa = IERC7913SignatureVerifier(Artifacts.deploy("RsaPssVerifier"));
        p256 = IERC7913SignatureVerifier(Artifacts.deploy("ERC7913P256Verifier"));
        token = new TestToken();

        nodes.setVerifier(address(rsa), true);
        nodes.setVerifier(address(p256), true);
        address[] memory signers = new address[](3);
        (signers[0], signers[1], signers[2]) = (vm.addr(11), vm.addr(12), vm.addr(13));
        nodes.setMirrors(_sorted(signers), 2);

        address[] memory hotKeys = new address[](1);
        hotKeys[0] = hotKey;
        keeperId = keepers.register(0, makeAddr("keeper payout"), hotKeys);
        hotKeys[0] = makeAddr("other hot key");
        otherKeeperId = keepers.register(bytes32(uint256(1)), makeAddr("other keeper payout"), hotKeys);

        _bond(keeperId, 1000 * SLASH);
        _bond(otherKeeperId, 1000 * SLASH);

        node = _mirrorP256("node");
        declared = _declareP256("declared");
        (payer, payerKey) = makeAddrAndKey("payer");
        _fund(payer, 1_000_000_000);
    }

    function _bond(bytes32 id, uint128 amount) internal {
        bondToken.mint(address(this), amount);
        bondToken.approve(address(keepers), amount);
        keepers.addBond(id, amount);
    }

    // ── Nodes ────────────────────────────────────────────────────────────────────────────────────────────────────────

    function _mirrorP256(string memory name) internal returns (NodeKeys memory keys) {
        uint256 secret = uint256(keccak256(bytes(name))) >> 8;
        keys = _mirror(_p256Key(secret), address(p256), name);
        keys.secret = secret;
    }

    /// @dev Mirrors a key by two of three signers; its owner becomes operator and sets a meter key.
    function _mirror(bytes memory key, address verifier, string memory name) internal returns (NodeKeys memory keys) {
        keys = NodeKeys({
            id: keccak256(key),
            secret: 0,
            meterSecret: uint256(keccak256(abi.encode(name, "meter"))) >> 8,
            operator: makeAddr(string.concat(name, " operator")),
            payout: makeAddr(string.concat(name, " payout")),
            version: 2
        });
        nodes.setMirrorVerifier(verifier);
        INodeRegistry.Mirror memory report =
            INodeRegistry.Mirror(key, keys.operator, keys.payout, true, uint40(block.timestamp));
        bytes[] memory signatures = new bytes[](2);
        (uint256 low, uint256 high) = vm.addr(11) < vm.addr(12) ? (11, 12) : (12, 11);
        signatures[0] = _sign(low, nodes.mirrorDigest(report));
        signatures[1] = _sign(high, nodes.mirrorDigest(report));
        nodes.mirror(report, signatures);
        vm.startPrank(keys.operator);
        nodes.claimOperator(keys.id, keys.operator, "");
        nodes.setMeterKey(keys.id, vm.addr(keys.meterSecret));
        vm.stopPrank();
    }

    function _declareP256(string memory name) internal returns (NodeKeys memory keys) {
        keys.secret = uint256(keccak256(bytes(name))) >> 8;
        keys.meterSecret = uint256(keccak256(abi.encode(name, "meter"))) >> 8;
        keys.operator = makeAddr(string.concat(name, " operator"));
        keys.payout = makeAddr(string.concat(name, " payout"));
        keys.version = 1;
        bytes memory key = _p256Key(keys.secret);
        keys.id = keccak256(key);
        bytes32 digest =
            nodes.declareDigest(keys.id, address(p256), keys.operator, vm.addr(keys.meterSecret), keys.payout);
        vm.prank(keys.operator);
        nodes.declare(address(p256), key, vm.addr(keys.meterSecret), keys.payout, _signP256(keys.secret, digest));
    }

    // ── Payers ───────────────────────────────────────────────────────────────────────────────────────────────────────

    function _fund(address account, uint128 amount) internal {
        token.mint(address(this), amount);
        token.approve(address(escrow), amount);
        escrow.deposit(address(token), account, amount);
    }

    function _lock(uint256 secret, uint128 amount, uint256 nonce) internal {
        Lock memory lock_ =
            Lock(vm.addr(secret), address(token), keeperId, amount, uint40(block.timestamp) + 3 days, nonce);
        escrow.lock(lock_, _sign(secret, escrow.lockDigest(lock_)));
    }

    function _order(bytes32 keeperId_, uint256 nonce) internal view returns (Order memory) {
        return Order({
            payer: payer,
            token: address(token),
            maxAmount: 1000,
            requestCommit: _commit(_request(nonce), 0),
            nodeScope: 0,
            keeperId: keeperId_,
            validAfter: uint40(block.timestamp),
            validBefore: uint40(block.timestamp) + 1 hours,
            captureDeadline: uint40(block.timestamp) + 1 days,
            nonce: nonce
        });
    }

    function _open(Order memory order) internal {
        vm.prank(order.payer);
        escrow.openOrder(order, "");
    }

    // ── Evidence ─────────────────────────────────────────────────────────────────────────────────────────────────────

    function _request(uint256 nonce) internal pure returns (bytes32) {
        return keccak256(abi.encode("request", nonce));
    }

    function _output(uint256 nonce) internal pure returns (bytes memory) {
        return abi.encodePacked("Answer to ", bytes32(nonce));
    }

    /// @dev The answer of a P-256 node to an order of `_order`, with all three signatures.
    function _settlement(NodeKeys memory keys, Order memory order, uint128 amount)
        internal
        view
        returns (Settlement memory s)
    {
        s.order = order;
        s.orderSignature = _sign(payerKey, escrow.orderId(order));
        s.receipt = InferenceReceipt({
            rail: Receipts.RAIL_ORDER,
            paymentId: escrow.orderId(order),
            payer: order.payer,
            token: order.token,
            offset: 0,
            amount: amount,
            nodeId: keys.id,
            nodeVersion: keys.version,
            requestHash: _request(order.nonce),
            blinding: 0,
            outputHash: keccak256(_output(order.nonce)),
            timestamp: order.validAfter,
            salt: 0
        });
        _signEvidence(keys, s);
    }

    /// @dev Signs again what the receipt says now.
    function _signEvidence(NodeKeys memory keys, Settlement memory s) internal view {
        if (keys.secret != 0) s.inferenceSignature = _signP256(keys.secret, _message(s.receipt));
        _signMeter(keys, s);
    }

    function _signMeter(NodeKeys memory keys, Settlement memory s) internal view {
        bytes32 digest = ledger.meterDigest(
            Receipts.settlementId(s.receipt), s.receipt.paymentId, s.receipt.offset, s.receipt.amount
        );
        s.meterSignature = _sign(keys.meterSecret, digest);
        s.receipt.salt = keccak256(s.meterSignature);
    }

    function _message(InferenceReceipt memory receipt) internal pure returns (bytes32) {
        return Receipts.messageHash(receipt.requestHash, receipt.outputHash, receipt.timestamp);
    }

    function _settle(Settlement memory s) internal returns (bytes32) {
        return ledger.settleVerified(s.order, s.orderSignature, s.receipt, s.inferenceSignature, s.meterSignature);
    }

    // ── Batches ──────────────────────────────────────────────────────────────────────────────────────────────────────

    function _row(uint256 secret, Order memory order, uint128 amount, uint16 index)
        internal
        view
        returns (ISettlementLedger.OrderRow memory row)
    {
        (bytes32 r, bytes32 vs) = vm.signCompact(secret, escrow.orderId(order));
        return ISettlementLedger.OrderRow({
            payer: order.payer,
            maxAmount: order.maxAmount,
            requestCommit: order.requestCommit,
            nodeScope: order.nodeScope,
            validAfter: order.validAfter,
            validBefore: order.validBefore,
            captureDeadline: order.captureDeadline,
            nonce: order.nonce,
            r: r,
            vs: vs,
            amount: amount,
            node: index,
            receiptHash: keccak256(abi.encode("receipt", order.nonce))
        });
    }

    function _refs(NodeKeys memory a, NodeKeys memory b) internal pure returns (INodeRegistry.NodeRef[] memory refs) {
        refs = new INodeRegistry.NodeRef[](2);
        refs[0] = INodeRegistry.NodeRef(a.id, a.version);
        refs[1] = INodeRegistry.NodeRef(b.id, b.version);
    }

    // ── Looks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    function _free(address account) internal view returns (uint128) {
        return escrow.account(account, address(token)).free;
    }

    // ── Signatures ───────────────────────────────────────────────────────────────────────────────────────────────────

    function _sign(uint256 secret, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(secret, digest);
        return abi.encodePacked(r, s, v);
    }

    function _signP256(uint256 secret, bytes32 digest) internal pure returns (bytes memory) {
        (bytes32 r, bytes32 s) = vm.signP256(secret, digest);
        if (uint256(s) > P256_ORDER / 2) s = bytes32(P256_ORDER - uint256(s));
        return abi.encodePacked(r, s);
    }

    function _p256Key(uint256 secret) internal pure returns (bytes memory) {
        (uint256 x, uint256 y) = vm.publicKeyP256(secret);
        return abi.encodePacked(x, y);
    }

    function _commit(bytes32 request, bytes32 blinding) internal pure returns (bytes32) {
        return keccak256(abi.encode(request, blinding));
    }

    function _sorted(address[] memory list) internal pure returns (address[] memory) {
        for (uint256 i; i < list.length; ++i) {
            for (uint256 j = i + 1; j < list.length; ++j) {
                if (list[j] < list[i]) (list[i], list[j]) = (list[j], list[i]);
            }
        }
        return list;
    }
}
