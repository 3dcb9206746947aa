//! `request hash`: the canonical bytes of a request and their hash, as nodes sign and orders commit to them.

use std::path::PathBuf;

use alloy::primitives::B256;
use clap::{Args, Subcommand};
use quittance_bindings::typed::request_commit;
use serde_json::json;

use super::failure::{Result, read};
use super::output::Report;
use crate::canonical::canonical_request;

/// Requests.
#[derive(Debug, Subcommand)]
pub enum RequestCommand {
    /// Print the canonical bytes and hash of a chat or completions request
    Hash(Hash),
}

/// A request.
#[derive(Args, Debug)]
pub struct Hash {
    /// Request (JSON file); `-` or nothing: standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Blinding of a private order, for its request commitment
    #[arg(long, value_name = "HEX")]
    blinding: Option<B256>,
    /// Print the canonical bytes alone, for `order open` by other tools
    #[arg(long)]
    raw: bool,
}

impl RequestCommand {
    /// Runs the subcommand.
    pub fn run(&self) -> Result<Report> {
        let Self::Hash(args) = self;
        let candidates = canonical_request(&read(&args.file)?)?;
        let blinding = args.blinding.unwrap_or_default();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let variants: Vec<_> = candidates
            .iter()
            .map(|candidate| {
                json!({
                    "variant": candidate.variant.as_str(), "canonical": text(&candidate.bytes),
                    "requestHash": candidate.hash, "requestCommit": request_commit(candidate.hash, blinding),
                })
            })
            .collect();
        let lines: Vec<String> = candidates
            .iter()
            .map(|candidate| {
                if args.raw {
                    return text(&candidate.bytes);
                }
                format!(
                    "variant        {}\ncanonical      {}\nrequestHash    {}\nrequestCommit  {}",
                    candidate.variant.as_str(),
                    text(&candidate.bytes),
                    candidate.hash,
                    request_commit(candidate.hash, blinding),
                )
            })
            .collect();
        let shown = if args.raw { lines.first().cloned().unwrap_or_default() } else { lines.join("\n\n") };
        let first = variants.first().cloned().unwrap_or_default();
        let mut json = first;
        if let Some(object) = json.as_object_mut() {
            object.insert("variants".to_owned(), variants.into());
        }
        Ok(Report { json, text: shown, ok: true })
    }
}
