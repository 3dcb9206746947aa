//! Disputes: what stands behind any batch on the ledger.

pub mod batch;
