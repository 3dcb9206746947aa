//! contracts/access.json names every external function of every contract, once, under who may call it.
//!
//! A function that is missing there, or no longer exists, fails here. `test/governance` then holds the deployed contracts to the
//! table: what it calls restricted is, nothing else is, and nothing restricted touches deposited money.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn json(path: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(root().join(path)).unwrap()).unwrap()
}

fn kind(input: &Value) -> String {
    let text = input["type"].as_str().unwrap();
    match text.strip_prefix("tuple") {
        Some(suffix) => {
            let parts: Vec<String> = input["components"].as_array().unwrap().iter().map(kind).collect();
            format!("({}){suffix}", parts.join(","))
        }
        None => text.to_owned(),
    }
}

/// Signature → whether it only reads.
fn functions(contract: &str) -> BTreeMap<String, bool> {
    let abi = json(&format!("bindings/abi/{contract}.json"));
    let entries = abi["abi"].as_array().unwrap();
    for entry in entries {
        assert!(!matches!(entry["type"].as_str(), Some("fallback" | "receive")), "{contract} takes any call: list it");
    }
    entries
        .iter()
        .filter(|entry| entry["type"] == "function")
        .map(|entry| {
            let inputs: Vec<String> = entry["inputs"].as_array().unwrap().iter().map(kind).collect();
            let signature = format!("{}({})", entry["name"].as_str().unwrap(), inputs.join(","));
            (signature, matches!(entry["stateMutability"].as_str(), Some("view" | "pure")))
        })
        .collect()
}

fn names(value: &Value) -> BTreeSet<String> {
    value.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_external_function_is_in_the_table_once() {
    let table = json("contracts/access.json");
    let contracts = table["contracts"].as_object().unwrap();
    let who = table["who"].as_object().unwrap();
    let mut wrong = Vec::new();
    for (contract, classes) in contracts {
        let mut listed = BTreeMap::new();
        for (class, signatures) in classes.as_object().unwrap() {
            assert!(who.contains_key(class), "{contract}: the table does not say who \"{class}\" is");
            for signature in names(signatures) {
                let twice = listed.insert(signature.clone(), class.clone()).is_some();
                assert!(!twice, "{contract}.{signature} is listed twice");
            }
        }
        let actual = functions(contract);
        for (signature, reads) in &actual {
            match listed.get(signature) {
                None => wrong.push(format!("{contract}.{signature} is not listed")),
                Some(class) if (class == "view") != *reads => {
                    wrong.push(format!("{contract}.{signature} is listed under \"{class}\""));
                }
                Some(_) => {}
            }
        }
        wrong.extend(
            listed.keys().filter(|name| !actual.contains_key(*name)).map(|name| format!("{contract}.{name} is gone")),
        );
    }
    assert!(wrong.is_empty(), "contracts/access.json and the contracts differ:\n{}", wrong.join("\n"));
}

#[test]
fn every_contract_is_in_the_table_or_of_the_devnet_alone() {
    let table = json("contracts/access.json");
    let listed: BTreeSet<String> = table["contracts"].as_object().unwrap().keys().cloned().collect();
    let devnet = names(&table["devnetOnly"]);
    assert!(listed.is_disjoint(&devnet));
    let files = |folder: &str, extension: &str| -> BTreeSet<String> {
        std::fs::read_dir(root().join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|found| found == extension))
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect()
    };
    let all = files("bindings/abi", "json");
    assert_eq!(all, listed.union(&devnet).cloned().collect(), "bindings/abi and contracts/access.json");
    assert_eq!(files("contracts/devnet", "sol"), devnet, "contracts/devnet and devnetOnly");
    for folder in ["contracts/base", "contracts/opengradient", "contracts/verifiers"] {
        for contract in files(folder, "sol") {
            assert!(listed.contains(&contract), "{folder}/{contract}.sol is not in contracts/access.json");
        }
    }
}
