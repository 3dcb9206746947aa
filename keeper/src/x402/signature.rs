//! Signatures of payers: accounts (ECDSA), wallets with code (ERC-1271, EIP-7702), wallets that are not there yet (ERC-6492).
//!
//! An account without code signs with its key; one with code decides by itself, whatever its key says. That is the rule of the
//! tokens, of Permit2 and of the reference libraries.

use alloy::primitives::{Address, B256, Bytes, Signature as Ecdsa, U256, b256};
use alloy::sol;
use alloy::sol_types::{SolCall, SolValue};

use super::contracts::Wallet;

/// End of a wrapped signature.
const MAGIC: B256 = b256!("6492649264926492649264926492649264926492649264926492649264926492");

sol! {
    struct Wrapped {
        address factory;
        bytes data;
        bytes signature;
    }
}

/// How a wallet that is not there yet comes to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deploy {
    pub factory: Address,
    pub data: Bytes,
}

/// A signature without its wrapper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// 65 bytes end in 27 or 28, as contracts want them.
    pub bytes: Bytes,
    pub deploy: Option<Deploy>,
}

impl Signed {
    /// Takes the ERC-6492 wrapper off, if there is one; `None` when there is one that cannot be read.
    pub fn read(bytes: &Bytes) -> Option<Self> {
        let Some(body) = bytes.strip_suffix(MAGIC.as_slice()) else {
            return Some(Self { bytes: plain(bytes), deploy: None });
        };
        let wrapped = Wrapped::abi_decode_params(body).ok()?;
        let deploy = Deploy { factory: wrapped.factory, data: wrapped.data };
        Some(Self { bytes: plain(&wrapped.signature), deploy: Some(deploy) })
    }

    /// Whether the key of `signer` made it.
    pub fn is_by(&self, signer: Address, digest: B256) -> bool {
        signer != Address::ZERO && self.recover(digest) == Some(signer)
    }

    fn recover(&self, digest: B256) -> Option<Address> {
        let signature = match self.bytes.len() {
            65 => Ecdsa::from_raw(&self.bytes).ok()?,
            64 => Ecdsa::from_erc2098(&self.bytes),
            _ => return None,
        };
        signature.recover_address_from_prehash(&digest).ok()
    }

    /// The three parts of 65 bytes: v, r, s.
    pub fn parts(&self) -> Option<(u8, B256, B256)> {
        if self.bytes.len() != 65 {
            return None;
        }
        Some((self.bytes[64], B256::from_slice(&self.bytes[..32]), B256::from_slice(&self.bytes[32..64])))
    }
}

/// 65 bytes that end in 0 or 1 end in 27 or 28 instead.
fn plain(bytes: &Bytes) -> Bytes {
    match bytes.last() {
        Some(v @ (0 | 1)) if bytes.len() == 65 => {
            let mut copy = bytes.to_vec();
            copy[64] = v + 27;
            copy.into()
        }
        _ => bytes.clone(),
    }
}

/// The question to a wallet whether it agrees.
pub fn ask_wallet(digest: B256, signature: &Bytes) -> Bytes {
    Wallet::isValidSignatureCall { hash: digest, signature: signature.clone() }.abi_encode().into()
}

/// Whether a wallet's answer is a yes.
pub fn agrees(answer: &[u8]) -> bool {
    // A word: the selector, then nothing.
    answer.len() == 32 && U256::from_be_slice(answer) == U256::from(0x1626_ba7e_u32) << 224
}

#[cfg(test)]
mod tests {
    use alloy::primitives::keccak256;
    use alloy::signers::SignerSync;
    use alloy::signers::local::PrivateKeySigner;

    use super::*;

    #[test]
    fn accounts() {
        let key = PrivateKeySigner::from_bytes(&B256::repeat_byte(7)).unwrap();
        let digest = keccak256("x");
        let signature = key.sign_hash_sync(&digest).unwrap();
        let bytes = Bytes::from(signature.as_bytes().to_vec());
        let signed = Signed::read(&bytes).unwrap();
        assert!(signed.is_by(key.address(), digest) && signed.deploy.is_none());
        assert!(!signed.is_by(Address::repeat_byte(1), digest));
        assert!(!signed.is_by(key.address(), keccak256("y")));
        let mut low = bytes.to_vec();
        low[64] -= 27;
        let low = Signed::read(&low.into()).unwrap();
        assert_eq!(low, signed, "0 and 1 are 27 and 28");
        assert_eq!(low.parts().unwrap().0, bytes[64]);
        let short = Signed::read(&signature.as_erc2098().to_vec().into()).unwrap();
        assert!(short.is_by(key.address(), digest) && short.parts().is_none());
        for bad in [&[][..], &[0; 65], &[255; 65], &[1; 66]] {
            let bad = Signed::read(&Bytes::copy_from_slice(bad)).unwrap();
            assert!(!bad.is_by(key.address(), digest) && !bad.is_by(Address::ZERO, digest));
        }
    }

    #[test]
    fn wallets_that_are_not_there_yet() {
        let wrapped = Wrapped {
            factory: Address::repeat_byte(9),
            data: Bytes::from_static(&[1, 2]),
            signature: Bytes::from_static(&[3; 70]),
        };
        let mut bytes = wrapped.abi_encode_params();
        bytes.extend(MAGIC);
        let signed = Signed::read(&bytes.into()).unwrap();
        assert_eq!(signed.bytes.as_ref(), [3; 70]);
        assert_eq!(signed.deploy, Some(Deploy { factory: wrapped.factory, data: wrapped.data }));
        let mut broken = vec![1; 40];
        broken.extend(MAGIC);
        assert_eq!(Signed::read(&broken.into()), None);
    }

    #[test]
    fn a_wallet_agrees_with_one_word_only() {
        let mut yes = [0; 32];
        yes[..4].copy_from_slice(&[0x16, 0x26, 0xba, 0x7e]);
        assert!(agrees(&yes));
        assert!(!agrees(&yes[..4]) && !agrees(&[0; 32]) && !agrees(&[]));
        yes[31] = 1;
        assert!(!agrees(&yes));
    }
}
