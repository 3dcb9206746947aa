//! Operating a keeper: limits, health, command line, shutdown, backup. Two anvil chains, the real contracts, the real keeper as
//! a child process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod backup;
mod cli;
mod connections;
mod health;
mod limits;
mod net;
mod reconcile;
mod stop;
mod trail;
