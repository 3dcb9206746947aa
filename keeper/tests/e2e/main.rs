//! End to end: two anvil chains, the real contracts, three nodes, the real keeper as a child process. Each scenario ends by
//! checking the money on the chain.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod chain_faults;
mod disputes;
mod fork;
mod gateway;
mod harness;
mod privacy;
mod refusals;
mod refuse_to_start;
mod settle;
mod x402;
mod x402_extensions;
mod x402_others;
mod x402_sponsored;
mod x402_wallets;
