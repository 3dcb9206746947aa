//! Calls to a keeper's HTTP API.

use std::time::Duration;

use reqwest::{Client, Method, Response, StatusCode};
use serde_json::Value;

use super::failure::{Failure, Result};

/// A keeper.
#[derive(Clone, Debug)]
pub struct Keeper {
    client: Client,
    url: String,
    api_key: Option<String>,
}

impl Keeper {
    /// The keeper at a URL; the environment's `QUITTANCE_API_KEY` opens what is not public.
    ///
    /// # Errors
    /// `bad_configuration`.
    pub fn new(url: &str) -> Result<Self> {
        let client = Client::builder()
            .timeout(Duration::from_secs(90))
            .build()
            .map_err(|error| Failure::usage("bad_configuration", error.to_string()))?;
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self { client, url, api_key: std::env::var("QUITTANCE_API_KEY").ok() })
    }

    /// `GET path` as JSON.
    ///
    /// # Errors
    /// The keeper's own code, `keeper_unreachable`.
    pub async fn get(&self, path: &str) -> Result<Value> {
        json(self.send(Method::GET, path, None, &[]).await?).await.map(|(_, value)| value)
    }

    /// `GET path` as text, and its header `x-next`.
    ///
    /// # Errors
    /// As `get`.
    pub async fn text(&self, path: &str) -> Result<(String, Option<String>)> {
        let response = self.send(Method::GET, path, None, &[]).await?;
        let status = response.status();
        let next = response.headers().get("x-next").and_then(|next| next.to_str().ok()).map(str::to_owned);
        let text = response.text().await.map_err(|error| unreachable(&self.url, &error))?;
        if status.is_success() {
            Ok((text, next))
        } else {
            Err(refused(status, serde_json::from_str(&text).ok().as_ref()))
        }
    }

    /// `POST path` with a JSON body; answers status and JSON.
    ///
    /// # Errors
    /// As `get`.
    pub async fn post(&self, path: &str, body: String, headers: &[(&str, &str)]) -> Result<(StatusCode, Value)> {
        json(self.send(Method::POST, path, Some(body), headers).await?).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        headers: &[(&str, &str)],
    ) -> Result<Response> {
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        if let Some(key) = &self.api_key {
            request = request.bearer_auth(key);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.map_err(|error| unreachable(&self.url, &error))
    }
}

async fn json(response: Response) -> Result<(StatusCode, Value)> {
    let (status, url) = (response.status(), response.url().to_string());
    let bytes = response.bytes().await.map_err(|error| unreachable(&url, &error))?;
    let value: Option<Value> = serde_json::from_slice(&bytes).ok();
    match value {
        Some(value) if status.is_success() => Ok((status, value)),
        value => Err(refused(status, value.as_ref())),
    }
}

fn refused(status: StatusCode, body: Option<&Value>) -> Failure {
    let text = |name: &str| body.and_then(|body| body.get(name)).and_then(Value::as_str).map(str::to_owned);
    let code = text("code").unwrap_or_else(|| "keeper_failed".to_owned());
    let message = text("message").unwrap_or_else(|| format!("the keeper answers {status}"));
    let details = body.and_then(|body| body.get("details")).cloned().unwrap_or(Value::Null);
    Failure { details, ..Failure::new(code, message) }
}

fn unreachable(url: &str, error: &reqwest::Error) -> Failure {
    Failure::new("keeper_unreachable", format!("{url}: {error}"))
}
