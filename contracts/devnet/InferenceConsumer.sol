// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IInferenceConsumer} from "../interfaces/IInferenceConsumer.sol";
import {IInferenceEscrow} from "../interfaces/IInferenceEscrow.sol";
import {Order, Orders} from "../libraries/Orders.sol";

/// @notice Example protocol: orders inference with money deposited for it and keeps the answers.
/// @dev 500,000 gas store some 600 bytes; a protocol with longer answers keeps a hash or emits them.
contract InferenceConsumer is IInferenceConsumer {
    IInferenceEscrow public immutable ESCROW;
    address public immutable OWNER = msg.sender;
    uint256 public orders;
    mapping(bytes32 orderId => bytes) public answers;

    error NotAllowed(address caller);

    constructor(IInferenceEscrow escrow) {
        ESCROW = escrow;
    }

    /// @notice Orders an answer within `term` seconds, for at most `max`, from any mirrored node or the one named.
    function ask(address token, uint128 max, bytes32 node, uint40 term, bytes calldata request)
        external
        returns (bytes32 orderId)
    {
        require(msg.sender == OWNER, NotAllowed(msg.sender));
        bytes32 commit = Orders.requestCommit(keccak256(request), 0);
        uint40 time = uint40(block.timestamp);
        Order memory order =
            Order(address(this), token, max, commit, node, 0, time, time + term, time + 2 * term, orders++);
        return ESCROW.openOrder(order, request);
    }

    /// @inheritdoc IInferenceConsumer
    function onInference(bytes32 orderId, bytes32, bytes calldata output) external {
        require(msg.sender == ESCROW.ledger(), NotAllowed(msg.sender));
        answers[orderId] = output;
    }

    /// @notice Takes back what no order holds.
    function withdraw(address token, uint128 amount) external {
        require(msg.sender == OWNER, NotAllowed(msg.sender));
        ESCROW.withdraw(token, OWNER, amount);
    }
}
