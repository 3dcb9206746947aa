//! Private keys: loading secp256k1 keys by reference, and RSA keys of devnet nodes. Nothing here reads argv or logs a key.

use std::path::Path;

use alloy::primitives::{B256, keccak256};
use alloy::signers::local::PrivateKeySigner;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair, RSA_PSS_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use secrecy::{ExposeSecret, SecretString};

use crate::config::KeySource;
use crate::error::{Error, Result};

/// Loads a secp256k1 key from where the configuration says it is. Decrypting a keystore takes about a second.
///
/// # Errors
/// `bad_configuration` naming the variable or file, never its content.
pub fn load_signer(source: &KeySource) -> Result<PrivateKeySigner> {
    match source {
        KeySource::Env { env } => {
            let text = variable(env)?;
            let digits = text.expose_secret().trim();
            let digits = digits.strip_prefix("0x").unwrap_or(digits);
            let mut key = [0; 32];
            hex::decode_to_slice(digits, &mut key)
                .map_err(|_| Error::Config(format!("{env} must hold a private key as 64 hexadecimal digits")))?;
            PrivateKeySigner::from_bytes(&B256::from(key))
                .map_err(|_| Error::Config(format!("{env} holds a number that is no private key")))
        }
        KeySource::Keystore { keystore, password_file, password_env } => {
            let password = password(keystore, password_file.as_deref(), password_env.as_deref())?;
            PrivateKeySigner::decrypt_keystore(keystore, password.expose_secret())
                .map_err(|error| Error::Config(format!("cannot open keystore {}: {error}", keystore.display())))
        }
    }
}

fn variable(name: &str) -> Result<SecretString> {
    std::env::var(name).map(SecretString::from).map_err(|_| {
        Error::Config(format!("environment variable {name} is not set, and a key or password is read from it"))
    })
}

fn password(keystore: &Path, file: Option<&Path>, env: Option<&str>) -> Result<SecretString> {
    match (file, env) {
        (Some(file), None) => {
            let text = SecretString::from(read(file)?);
            Ok(SecretString::from(text.expose_secret().trim_end_matches(['\r', '\n'])))
        }
        (None, Some(env)) => variable(env),
        _ => Err(Error::Config(format!(
            "keystore {} needs exactly one of password_file and password_env",
            keystore.display()
        ))),
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| Error::Config(format!("cannot read {}: {error}", path.display())))
}

/// The RSA key of a devnet node. A real node's key never leaves its enclave.
#[derive(Debug)]
pub struct RsaKey {
    pair: RsaKeyPair,
    spki: Vec<u8>,
    id: B256,
}

impl RsaKey {
    /// A new RSA-2048 key.
    ///
    /// # Errors
    /// `bad_configuration` when the system has no randomness.
    pub fn generate() -> Result<Self> {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| rsa("cannot generate an RSA key"))?;
        Self::new(pair)
    }

    /// Reads an unencrypted PKCS#8 PEM document.
    ///
    /// # Errors
    /// `bad_configuration` when it is none, or no RSA key of 2048 bits or more.
    pub fn from_pem(pem: &str) -> Result<Self> {
        let body = pem
            .trim()
            .strip_prefix("-----BEGIN PRIVATE KEY-----")
            .and_then(|rest| rest.strip_suffix("-----END PRIVATE KEY-----"))
            .ok_or_else(|| rsa("the RSA key must be PEM with the header BEGIN PRIVATE KEY (PKCS#8)"))?;
        let text = SecretString::from(body.split_ascii_whitespace().collect::<String>());
        let der = BASE64.decode(text.expose_secret()).map_err(|_| rsa("the RSA key's PEM holds no base64"))?;
        Self::new(RsaKeyPair::from_pkcs8(&der).map_err(|_| rsa("the PEM holds no RSA key of 2048 bits or more"))?)
    }

    /// Reads a PEM file.
    ///
    /// # Errors
    /// As [`RsaKey::from_pem`].
    pub fn load(path: &Path) -> Result<Self> {
        let pem = SecretString::from(read(path)?);
        Self::from_pem(pem.expose_secret())
    }

    fn new(pair: RsaKeyPair) -> Result<Self> {
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(|_| rsa("cannot encode the RSA key"))?;
        let spki = spki.as_ref().to_vec();
        let id = keccak256(&spki);
        Ok(Self { pair, spki, id })
    }

    /// The key as PKCS#8 PEM, for the file of a devnet node.
    ///
    /// # Errors
    /// `bad_configuration` when the library cannot encode it.
    pub fn to_pem(&self) -> Result<SecretString> {
        let der: Pkcs8V1Der<'_> = self.pair.as_der().map_err(|_| rsa("cannot encode the RSA key"))?;
        Ok(SecretString::from(pem("PRIVATE KEY", der.as_ref())))
    }

    /// DER SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// SubjectPublicKeyInfo as PEM.
    pub fn public_pem(&self) -> String {
        pem("PUBLIC KEY", &self.spki)
    }

    /// keccak256 of the SubjectPublicKeyInfo: the node id.
    pub const fn id(&self) -> B256 {
        self.id
    }

    /// RSASSA-PSS, SHA-256, salt of 32 bytes, over the hash taken as the message.
    ///
    /// # Errors
    /// `bad_configuration` when the library refuses.
    pub fn sign(&self, message_hash: B256) -> Result<Vec<u8>> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PSS_SHA256, &SystemRandom::new(), message_hash.as_slice(), &mut signature)
            .map_err(|_| rsa("cannot sign with the RSA key"))?;
        Ok(signature)
    }
}

fn rsa(what: &str) -> Error {
    Error::Config(what.to_owned())
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out + &format!("-----END {label}-----\n")
}
