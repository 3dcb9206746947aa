//! `backup`: a consistent copy of a SQLite database while the keeper runs.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::At;
use crate::cli::failure::{Failure, Result};
use crate::cli::output::Report;

/// Copy the database while the keeper runs.
#[derive(Args, Debug)]
pub struct Backup {
    /// The copy; must not exist
    out: PathBuf,
    #[command(flatten)]
    at: At,
}

impl Backup {
    /// Runs it.
    pub async fn run(&self) -> Result<Report> {
        let (config, store) = self.at.open().await?;
        if super::file_of(&config.keeper.database).is_none() {
            let text = "this is a Postgres database: use pg_dump --format=custom, see keeper/docs/operations.md";
            return Err(Failure::usage("not_sqlite", text));
        }
        if self.out.exists() {
            let text = format!("{} is there already: name a new file", self.out.display());
            return Err(Failure::usage("unwritable_file", text));
        }
        let copied = store.copy_to(&self.out).await;
        store.close().await;
        copied?;
        // The copy is worth nothing before it is on the disk.
        let file = std::fs::File::open(&self.out)?;
        file.sync_all()?;
        let bytes = file.metadata()?.len();
        let facts = [("backup", self.out.display().to_string()), ("bytes", bytes.to_string())];
        Ok(Report::facts(json!({ "backup": self.out, "bytes": bytes }), &facts))
    }
}
