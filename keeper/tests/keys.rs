//! Private keys come from environment or keystore, and errors never show them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use alloy::signers::k256::elliptic_curve::rand_core::OsRng;
use alloy::signers::local::PrivateKeySigner;
use quittance::config::KeySource;
use quittance::crypto::load_signer;

/// First account of every anvil chain.
const KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
const ADDRESS: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";

fn keystore(password_file: Option<&std::path::Path>, password_env: Option<&str>, path: &std::path::Path) -> KeySource {
    KeySource::Keystore {
        keystore: path.to_owned(),
        password_file: password_file.map(Into::into),
        password_env: password_env.map(Into::into),
    }
}

#[test]
fn a_keystore_opens_with_its_password_only() {
    let folder = tempfile::tempdir().unwrap();
    let bytes: [u8; 32] = alloy::hex::decode(KEY).unwrap().try_into().unwrap();
    let (signer, _) =
        PrivateKeySigner::encrypt_keystore(folder.path(), &mut OsRng, bytes, "right", Some("key.json")).unwrap();
    let (path, password) = (folder.path().join("key.json"), folder.path().join("password"));
    std::fs::write(&password, "right\n").unwrap();
    let loaded = load_signer(&keystore(Some(&password), None, &path)).unwrap();
    assert_eq!(loaded.address(), signer.address());
    assert_eq!(loaded.address().to_string(), ADDRESS);

    std::fs::write(&password, "wrong").unwrap();
    let wrong = load_signer(&keystore(Some(&password), None, &path)).unwrap_err();
    assert_eq!(wrong.code(), "bad_configuration");
    assert!(!wrong.to_string().contains("wrong"), "{wrong}");
    assert!(load_signer(&keystore(None, None, &path)).is_err(), "no password at all");
    assert!(load_signer(&keystore(Some(&password), Some("X"), &path)).is_err(), "two passwords");
    assert!(load_signer(&keystore(Some(&folder.path().join("absent")), None, &path)).is_err());
    assert!(load_signer(&keystore(None, Some("QUITTANCE_TEST_ABSENT"), &path)).is_err());
}

#[test]
fn environment_keys_are_read_and_never_shown() {
    let absent = load_signer(&KeySource::Env { env: "QUITTANCE_TEST_ABSENT".into() }).unwrap_err();
    assert!(absent.to_string().contains("QUITTANCE_TEST_ABSENT"));
    // PATH is set in every environment and is no key.
    let bad = load_signer(&KeySource::Env { env: "PATH".into() }).unwrap_err().to_string();
    assert!(bad.contains("64 hexadecimal digits") && !bad.contains(&std::env::var("PATH").unwrap()));
    // A variable can only be set for a child: run this test again with the key in its environment.
    if std::env::var("QUITTANCE_TEST_KEY").is_ok() {
        let loaded = load_signer(&KeySource::Env { env: "QUITTANCE_TEST_KEY".into() }).unwrap();
        assert_eq!(loaded.address().to_string(), ADDRESS);
        return;
    }
    for spelled in [KEY.to_owned(), format!("0x{KEY}"), format!(" {KEY}\n")] {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "environment_keys_are_read_and_never_shown"])
            .env("QUITTANCE_TEST_KEY", spelled)
            .status()
            .unwrap();
        assert!(status.success());
    }
}
