//! Verification without I/O: what came in against what was signed.

pub mod charge;
pub mod completion;
pub mod meter;
pub mod order;
