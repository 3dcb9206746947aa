//! Committed ABIs, creation bytecode and alloy types of the Quittance contracts.
//!
//! One module per contract, made from `abi/<Name>.json`, which `script/bindings` writes. `typed` holds the structs that are
//! signed or hashed; they convert from and to the structs of the contracts that take them.

pub mod contracts;
mod convert;
pub mod typed;

pub use contracts::*;
