//! Who may call what, as contracts/access.json says; `script/Deploy.s.sol` gives roles by the same table.

use std::collections::BTreeMap;

use alloy::primitives::{FixedBytes, keccak256};
use serde::Deserialize;

use crate::error::{Error, Result};

/// Administrator: everything restricted that no other role has.
pub const ADMIN: u64 = 0;
/// Guardian.
pub const GUARDIAN: u64 = 1;

const TABLE: &str = include_str!("../../../contracts/access.json");

#[derive(Deserialize)]
struct Table {
    /// Contract → who → signatures.
    contracts: BTreeMap<String, BTreeMap<String, Vec<String>>>,
}

/// Selectors of a contract's functions that `who` may call; none if the table names none.
///
/// # Errors
/// `config_invalid` when the table cannot be read.
pub fn selectors(contract: &str, who: &str) -> Result<Vec<FixedBytes<4>>> {
    let table: Table =
        serde_json::from_str(TABLE).map_err(|error| Error::Config(format!("contracts/access.json: {error}")))?;
    let functions = table.contracts.get(contract).and_then(|contract| contract.get(who));
    Ok(functions.into_iter().flatten().map(|signature| selector(signature)).collect())
}

fn selector(signature: &str) -> FixedBytes<4> {
    let [a, b, c, d, ..] = keccak256(signature).0;
    [a, b, c, d].into()
}

#[cfg(test)]
mod tests {
    use alloy::sol_types::SolCall;
    use quittance_bindings::{InferenceEscrow, NodeRegistry};

    use super::*;

    #[test]
    fn the_guardian_revokes_and_pauses() {
        assert_eq!(selectors("NodeRegistry", "guardian").unwrap(), [NodeRegistry::revokeCall::SELECTOR]);
        assert_eq!(selectors("InferenceEscrow", "guardian").unwrap(), [InferenceEscrow::pauseCall::SELECTOR]);
        assert!(selectors("SettlementLedger", "guardian").unwrap().is_empty());
        assert!(selectors("Nobody", "guardian").unwrap().is_empty());
    }
}
