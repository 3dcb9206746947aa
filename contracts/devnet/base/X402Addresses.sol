// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @notice Where x402's contracts and what they use are on every chain.
library X402Addresses {
    address internal constant PERMIT2 = 0x000000000022D473030F116dDEE9F6B43aC78BA3;
    address internal constant BATCH_SETTLEMENT = 0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003;
}
