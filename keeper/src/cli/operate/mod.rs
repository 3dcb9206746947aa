//! For operators: status, doctor, reconcile, admin, backup; with the configuration file, beside a running keeper or without one.

pub mod admin;
pub mod backup;
pub mod check;
pub mod doctor;
pub mod reconcile;
pub mod status;

use std::path::PathBuf;

use clap::Args;

use super::failure::{Failure, Result};
use crate::config::Config;
use crate::store::Store;

/// Where the configuration is.
#[derive(Args, Clone, Debug)]
pub struct At {
    /// The keeper's configuration (TOML)
    #[arg(short, long, default_value = "quittance.toml", value_name = "FILE")]
    pub config: PathBuf,
}

impl At {
    /// Reads the configuration.
    ///
    /// # Errors
    /// `bad_configuration`.
    pub fn load(&self) -> Result<Config> {
        Ok(Config::load(&self.config)?)
    }

    /// The configuration and its database, which must be there.
    ///
    /// # Errors
    /// `bad_configuration`, `no_database`, `store_failed`.
    pub async fn open(&self) -> Result<(Config, Store)> {
        let config = self.load()?;
        let store = existing(&config).await?;
        Ok((config, store))
    }
}

/// Opens the database if it is there; looking must not make one.
///
/// # Errors
/// `no_database`, `store_failed`.
pub async fn existing(config: &Config) -> Result<Store> {
    let url = &config.keeper.database;
    if let Some(path) = file_of(url)
        && !path.exists()
    {
        let text =
            format!("there is no database {}: start the keeper once, or correct keeper.database", path.display());
        return Err(Failure::usage("no_database", text));
    }
    Ok(Store::open(url).await?)
}

/// The file of a SQLite database; `None` for Postgres.
pub fn file_of(url: &str) -> Option<PathBuf> {
    let path = url.strip_prefix("sqlite:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    Some(PathBuf::from(path.split('?').next().unwrap_or(path)))
}

/// Where a keeper with this configuration is reached from its own machine.
pub fn url_of(listen: &str) -> String {
    let local = listen.replacen("0.0.0.0:", "127.0.0.1:", 1).replacen("[::]:", "[::1]:", 1);
    format!("http://{local}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_things_are() {
        assert_eq!(file_of("sqlite:/a/b.db?mode=rwc"), Some(PathBuf::from("/a/b.db")));
        assert_eq!(file_of("sqlite:///a/b.db"), Some(PathBuf::from("/a/b.db")));
        assert_eq!(file_of("postgres://host/db"), None);
        assert_eq!(url_of("0.0.0.0:4021"), "http://127.0.0.1:4021");
        assert_eq!(url_of("10.0.0.1:4021"), "http://10.0.0.1:4021");
    }
}
