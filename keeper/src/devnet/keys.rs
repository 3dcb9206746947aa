//! Keys of a devnet: derived from their role, so that every run prints the same ones. Never fund them anywhere else.

use alloy::primitives::{Address, B256, keccak256};
use alloy::signers::local::PrivateKeySigner;

use crate::error::{Error, Result};

/// A secp256k1 key of a devnet and what it is for.
#[derive(Clone, Debug)]
pub struct Key {
    /// What it is for, for example `payer-3`.
    pub role: String,
    pub signer: PrivateKeySigner,
}

impl Key {
    /// The key of a role.
    ///
    /// # Errors
    /// `bad_configuration`; no role in use derives an invalid scalar.
    pub fn of(role: impl Into<String>) -> Result<Self> {
        let role = role.into();
        let signer = PrivateKeySigner::from_bytes(&Self::secret_of(&role))
            .map_err(|error| Error::Config(format!("devnet key {role}: {error}")))?;
        Ok(Self { role, signer })
    }

    /// Its account.
    pub fn address(&self) -> Address {
        self.signer.address()
    }

    /// The secret as 0x-prefixed hex, as environment variables carry it.
    pub fn hex(&self) -> String {
        Self::secret_of(&self.role).to_string()
    }

    fn secret_of(role: &str) -> B256 {
        keccak256(format!("quittance devnet key, public on purpose: {role}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_have_stable_keys_of_their_own() -> Result<()> {
        assert_eq!(Key::of("keeper")?.address(), Key::of("keeper")?.address());
        assert_ne!(Key::of("keeper")?.address(), Key::of("payer-0")?.address());
        let parsed: PrivateKeySigner = Key::of("keeper")?.hex().parse().map_err(|_| Error::Config("hex".to_owned()))?;
        assert_eq!(parsed.address(), Key::of("keeper")?.address());
        Ok(())
    }
}
