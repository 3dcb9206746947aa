//! Where rows are published: a directory, any HTTP server that takes PUT, or a Walrus publisher.

use std::path::PathBuf;
use std::time::Duration;

use alloy::primitives::B256;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

/// Time of one upload; Walrus publishers encode and store before they answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The configured place.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Publish {
    /// Files named after the keccak256 of their bytes.
    Directory { path: PathBuf },
    /// `PUT {url}/{hash}.json`.
    Http { url: String },
    /// `PUT {url}?epochs=N`, where `url` ends in `/v1/blobs`.
    Walrus {
        url: String,
        /// Storage epochs that are paid for.
        #[serde(default = "ten")]
        epochs: u32,
    },
}

const fn ten() -> u32 {
    10
}

/// A place that can be written to.
#[derive(Debug)]
pub struct Place {
    to: Publish,
    http: reqwest::Client,
}

impl Place {
    /// Sets a place up.
    ///
    /// # Errors
    /// `bad_configuration` for a URL that is none; `io_failed` for a directory that cannot be made.
    pub fn new(to: &Publish) -> Result<Self> {
        match to {
            Publish::Directory { path } => std::fs::create_dir_all(path)?,
            Publish::Http { url } | Publish::Walrus { url, .. } => {
                url.parse::<reqwest::Url>()
                    .map_err(|error| Error::Config(format!("publish.url = {url:?}: {error}")))?;
            }
        }
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .build()
            .map_err(|error| Error::Config(format!("HTTP client: {error}")))?;
        Ok(Self { to: to.clone(), http })
    }

    /// Writes bytes under their hash and tells where they are: a path, a URL, or a Walrus blob id. Again is harmless.
    ///
    /// # Errors
    /// What the place said.
    pub async fn put(&self, hash: B256, content: &[u8]) -> std::result::Result<String, String> {
        match &self.to {
            Publish::Directory { path } => {
                let file = path.join(format!("{hash}.json"));
                let part = path.join(format!("{hash}.json.{}", std::process::id()));
                // Never half a file under the name, whenever this is killed.
                tokio::fs::write(&part, content).await.map_err(|error| error.to_string())?;
                tokio::fs::rename(&part, &file).await.map_err(|error| error.to_string())?;
                Ok(file.display().to_string())
            }
            Publish::Http { url } => {
                let url = format!("{}/{hash}.json", url.trim_end_matches('/'));
                self.upload(&url, content).await?;
                Ok(url)
            }
            Publish::Walrus { url, epochs } => {
                let answer = self.upload(&format!("{url}?epochs={epochs}"), content).await?;
                let answer: Value = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
                let new = answer.pointer("/newlyCreated/blobObject/blobId");
                let id = new.or_else(|| answer.pointer("/alreadyCertified/blobId")).and_then(Value::as_str);
                id.map(str::to_owned).ok_or_else(|| format!("the publisher named no blob id: {answer}"))
            }
        }
    }

    async fn upload(&self, url: &str, content: &[u8]) -> std::result::Result<Vec<u8>, String> {
        let request = self.http.put(url).header("content-type", "application/json").body(content.to_vec());
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let status = answer.status();
        if !status.is_success() {
            return Err(format!("{url} answered {status}"));
        }
        answer.bytes().await.map(|bytes| bytes.to_vec()).map_err(|error| error.to_string())
    }
}
