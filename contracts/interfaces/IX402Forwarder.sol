// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @notice Lets several keys of one x402 facilitator settle many payments of any scheme in one transaction, each apart from the others.
/// @dev The address of this contract is the `facilitatorAddress` of x402's `upto` payments, so any of its keys can settle them.
///      It holds no money: whoever approves it or sends it tokens gives them to its keys.
interface IX402Forwarder {
    /// @notice One payment to settle.
    struct Call {
        /// What the keeper calls it; the contract only repeats it.
        bytes32 id;
        address target;
        /// Most gas that the call gets; the contract reverts as a whole rather than give less.
        uint64 gas;
        bytes data;
    }

    /// @notice What came of one call.
    struct Result {
        bool success;
        /// First `MAX_REASON` bytes of what a failed call returned; empty on success.
        bytes reason;
    }

    /// @notice One call is done: all logs of this transaction since the `Forwarded` before, or since its start, belong to it.
    event Forwarded(bytes32 indexed id, bool success, bytes reason);
    event KeySet(address indexed key, bool allowed);
    event OwnershipOffered(address indexed owner, address indexed offeredTo);
    event OwnershipTransferred(address indexed from, address indexed to);

    error NotKey(address actual);
    error NotOwner(address actual, address expected);
    error NotPendingOwner(address actual, address expected);
    error ZeroAddress();
    error NothingToForward();
    /// @notice The transaction has too little gas left for a call; nothing of it stays.
    error NotEnoughGas(uint256 index, uint256 actual, uint256 expected);
    /// @notice Reason of a result: there is no code to call.
    error NoCode(address target);

    /// @notice Makes the calls in order. One that fails undoes its own effects and stops none of the others. Keys only.
    /// @return results One for each call, for a simulation by `eth_call`; a receipt has the same in `Forwarded`.
    function forward(Call[] calldata calls) external returns (Result[] memory results);

    /// @notice Lets a key forward, or no longer. Owner only.
    function setKey(address key, bool allowed) external;

    /// @notice Offers the ownership; zero takes an offer back. Owner only.
    function transferOwnership(address to) external;

    /// @notice Takes an offered ownership. Whom it was offered only.
    function acceptOwnership() external;

    function isKey(address key) external view returns (bool);

    function owner() external view returns (address);

    function pendingOwner() external view returns (address);

    /// @notice Most bytes of a failed call's answer that are kept.
    function MAX_REASON() external view returns (uint256);

    /// @notice Gas that must be there besides what the call may use: for the call itself and for writing down what came of it.
    function CALL_RESERVE() external view returns (uint256);
}
