//! Why a command failed: a stable code, a sentence that says what to do, and the exit code that goes with it.

use serde_json::{Value, json};

use crate::error::{Error, Refusal};

/// Result of a command.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// A failed command.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    /// Stable.
    pub code: String,
    pub message: String,
    pub details: Value,
    /// 1 failed, 2 usage or configuration.
    pub exit: u8,
}

impl Failure {
    /// Something went wrong outside the command line.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), details: Value::Null, exit: 1 }
    }

    /// The command line, a file it names or the environment cannot work.
    pub fn usage(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { exit: 2, ..Self::new(code, message) }
    }

    /// The JSON form.
    pub fn to_json(&self) -> Value {
        json!({ "code": self.code, "message": self.message, "details": self.details })
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { details: refusal.details.clone(), ..Self::new(refusal.code.as_str(), refusal.message) }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(refusal) => refusal.into(),
            Error::Config(message) => Self::usage("bad_configuration", message),
            other => Self::new(other.code(), other.to_string()),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Error::Io(error).into()
    }
}

/// Reads a file, or standard input for `-`.
///
/// # Errors
/// `unreadable_file`.
pub fn read(path: &std::path::Path) -> Result<Vec<u8>> {
    use std::io::Read as _;
    if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    std::fs::read(path)
        .map_err(|error| Failure::usage("unreadable_file", format!("cannot read {}: {error}", path.display())))
}

/// Reads a JSON file, or standard input for `-`.
///
/// # Errors
/// `unreadable_file`, `malformed`.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &std::path::Path) -> Result<T> {
    serde_json::from_slice(&read(path)?)
        .map_err(|error| Failure::usage("malformed", format!("{}: {error}", path.display())))
}
