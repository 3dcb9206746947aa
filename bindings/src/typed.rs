//! The structs that payers, nodes and keepers sign or hash, and the identities computed from them.

use std::sync::LazyLock;

use alloy::primitives::{Address, B256, Keccak256, U256, keccak256};
use alloy::sol;
use alloy::sol_types::{Eip712Domain, SolStruct, SolValue, eip712_domain};

sol! {
    /// A payer's authorization; field meaning and units in `contracts/libraries/Orders.sol`.
    #[derive(Debug, PartialEq, Eq, Hash)]
    struct Order {
        address payer;
        address token;
        uint128 maxAmount;
        bytes32 requestCommit;
        bytes32 nodeScope;
        bytes32 keeperId;
        uint40 validAfter;
        uint40 validBefore;
        uint40 captureDeadline;
        uint256 nonce;
    }

    /// Money left in place for orders that name one keeper.
    #[derive(Debug, PartialEq, Eq, Hash)]
    struct Lock {
        address payer;
        address token;
        bytes32 keeperId;
        uint128 amount;
        uint40 until;
        uint256 nonce;
    }

    /// What one inference is charged to one payment, signed by the node's meter key.
    #[derive(Debug, PartialEq, Eq, Hash)]
    struct Meter {
        bytes32 settlementId;
        bytes32 paymentId;
        uint128 offset;
        uint128 amount;
    }

    /// One paid inference; field meaning and units in `contracts/libraries/Receipts.sol`.
    #[derive(Debug, PartialEq, Eq, Hash)]
    struct Receipt {
        uint8 rail;
        bytes32 paymentId;
        address payer;
        address token;
        uint128 offset;
        uint128 amount;
        bytes32 nodeId;
        uint32 nodeVersion;
        bytes32 requestHash;
        bytes32 blinding;
        bytes32 outputHash;
        uint40 timestamp;
        bytes32 salt;
    }

    /// One captured row as it stands in a batch's receipts tree.
    #[derive(Debug, PartialEq, Eq, Hash)]
    struct Leaf {
        uint8 rail;
        bytes32 paymentId;
        uint128 start;
        uint128 amount;
        bytes32 nodeId;
        uint32 nodeVersion;
        bytes32 receiptHash;
        uint32 row;
    }

    /// A node version that rows of a batch refer to by index.
    #[derive(Debug, PartialEq, Eq, Hash)]
    struct NodeRef {
        bytes32 nodeId;
        uint32 version;
    }

    /// One order of a batch; field meaning in `contracts/interfaces/ISettlementLedger.sol`.
    #[derive(Debug, PartialEq, Eq, Hash)]
    struct OrderRow {
        address payer;
        uint128 maxAmount;
        bytes32 requestCommit;
        bytes32 nodeScope;
        uint40 validAfter;
        uint40 validBefore;
        uint40 captureDeadline;
        uint256 nonce;
        bytes32 r;
        bytes32 vs;
        uint128 amount;
        uint16 node;
        bytes32 receiptHash;
    }

    /// What one batch owes one node.
    #[derive(Debug, PartialEq, Eq, Hash)]
    struct NodeCredit {
        bytes32 nodeId;
        address payout;
        uint128 amount;
        uint128 fee;
    }

    /// The record of a batch that later calls bring along; field meaning in `contracts/libraries/Batches.sol`.
    #[derive(Debug, PartialEq, Eq, Hash)]
    struct BatchRecord {
        uint64 batchId;
        bytes32 keeperId;
        address token;
        uint40 settledAt;
        uint32 rows;
        uint128 total;
        bytes32 receiptsRoot;
        bytes32 ogRoot;
        bytes32 blobHash;
        uint16 feeBps;
        address feeRecipient;
        NodeCredit[] credits;
    }

    /// A node's evidence as OpenGradient's inbox takes it.
    #[derive(Debug, PartialEq, Eq, Hash)]
    struct Inference {
        bytes32 nodeId;
        bytes32 requestHash;
        bytes32 outputHash;
        uint256 timestamp;
        bytes signature;
    }

    /// Calls of keepers, with the structs above.
    function settleBatch(bytes32 keeperId, address token, NodeRef[] nodes, OrderRow[] rows, bytes32 ogRoot, bytes blobId);
    function settleVerified(Order order, bytes orderSignature, Receipt receipt, bytes inferenceSignature, bytes meterSignature);
    function deliver(bytes32 settlementId, Receipt receipt, bytes output);
    function finalize(BatchRecord record);
    function reclaim(Order order);
    function recordInferences(Inference[] inferences);

    /// What proves that a row was owed.
    #[derive(Debug, PartialEq, Eq, Hash)]
    struct ReceiptEvidence {
        Receipt receipt;
        bytes inferenceSignature;
        bytes meterSignature;
    }

    /// Calls of the dispute game.
    interface Game {
        function challenge(BatchRecord record, Leaf leaf, bytes32[] proof, uint128 unit) external payable;
        function answer(BatchRecord record, Leaf leaf, Order order, ReceiptEvidence evidence) external;
        function resolve(BatchRecord record, Leaf leaf, Order order) external;
        function finalize(BatchRecord record, Leaf[] excluded) external;
        function withdrawBonds(address to) external;
        function challengeBond() external view returns (uint256);
        function withdrawable(address owner) external view returns (uint256);
    }
}

/// Rail number of orders in receipts and leaves.
pub const RAIL_ORDER: u8 = 1;

/// EIP-712 domain of a Quittance contract: the escrow for `Order` and `Lock`, the ledger for `Meter`.
pub fn domain(chain_id: u64, contract: Address) -> Eip712Domain {
    eip712_domain! {
        name: "Quittance",
        version: "1",
        chain_id: chain_id,
        verifying_contract: contract,
    }
}

/// EIP-712 digest of an order: its id.
pub fn order_id(order: &Order, escrow: &Eip712Domain) -> B256 {
    static TYPE: LazyLock<B256> = LazyLock::new(|| keccak256(Order::eip712_encode_type().as_bytes()));
    digest(order, *TYPE, escrow.separator())
}

/// EIP-712 digest of a Meter under the domain separator of the ledger.
pub fn meter_digest(meter: &Meter, ledger: B256) -> B256 {
    static TYPE: LazyLock<B256> = LazyLock::new(|| keccak256(Meter::eip712_encode_type().as_bytes()));
    digest(meter, *TYPE, ledger)
}

/// What `SolStruct::eip712_signing_hash` gives, without hashing the types anew for each struct.
fn digest(value: &impl SolStruct, type_hash: B256, separator: B256) -> B256 {
    let mut value_hash = Keccak256::new();
    value_hash.update(type_hash);
    value_hash.update(value.eip712_encode_data());
    let mut digest = Keccak256::new();
    digest.update([0x19, 0x01]);
    digest.update(separator);
    digest.update(value_hash.finalize());
    digest.finalize()
}

/// The commitment of an order to a request; zero blinding makes it public.
pub fn request_commit(request_hash: B256, blinding: B256) -> B256 {
    keccak256((request_hash, blinding).abi_encode())
}

/// What a node signs: keccak256(requestHash ‖ outputHash ‖ uint256(timestamp)); timestamp in unix seconds.
pub fn message_hash(request_hash: B256, output_hash: B256, timestamp: u64) -> B256 {
    keccak256((request_hash, output_hash, U256::from(timestamp)).abi_encode_packed())
}

/// The primary key of a paid inference everywhere.
pub fn settlement_id(node_id: B256, message_hash: B256) -> B256 {
    keccak256((node_id, message_hash).abi_encode())
}

/// Commitment to a receipt, as the contracts store it.
pub fn receipt_hash(receipt: &Receipt) -> B256 {
    keccak256(receipt.abi_encode())
}

/// Hash of a leaf in a batch's receipts tree: the ABI encoding hashed twice (OpenZeppelin's standard leaf).
pub fn leaf_hash(leaf: &Leaf) -> B256 {
    keccak256(keccak256(leaf.abi_encode()))
}
