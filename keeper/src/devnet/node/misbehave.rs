//! Faults that a devnet node shows on demand.

use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// What a node does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    #[default]
    None,
    /// Takes the request and never answers.
    Silent,
    /// Answers correctly after `ms` milliseconds.
    Slow,
    /// Signs something else than it says.
    BadSignature,
    /// Signs the hash of another text than it answers.
    WrongHash,
    /// Gives the first answer to a request again, timestamp and signature included.
    Duplicate,
    /// HTTP 500; in a stream an error event.
    #[serde(rename = "error_500")]
    Error500,
}

/// A mode and for how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Misbehaviour {
    pub mode: Mode,
    /// Requests until the node behaves again; absent: until told otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Milliseconds of mode `slow`.
    pub ms: u64,
}

impl FromStr for Misbehaviour {
    type Err = String;

    /// `MODE` or `slow:MILLISECONDS`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, ms) = text.split_once(':').unwrap_or((text, "0"));
        let mode = serde_json::from_value(name.into()).map_err(|_| {
            "use none, silent, slow:MILLISECONDS, bad_signature, wrong_hash, duplicate or error_500".to_owned()
        })?;
        let ms = ms.parse().map_err(|_| format!("{ms:?} is not a number of milliseconds"))?;
        Ok(Self { mode, count: None, ms })
    }
}

/// The switch of a running node.
#[derive(Debug)]
pub struct Switch(Mutex<Misbehaviour>);

impl Switch {
    pub fn new(initial: Misbehaviour) -> Self {
        Self(Mutex::new(initial))
    }

    fn lock(&self) -> MutexGuard<'_, Misbehaviour> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is set now.
    pub fn now(&self) -> Misbehaviour {
        *self.lock()
    }

    /// Sets it from the next request on.
    pub fn set(&self, to: Misbehaviour) {
        *self.lock() = to;
    }

    /// What the next request meets; counts it.
    pub fn next(&self) -> Misbehaviour {
        let mut state = self.lock();
        let met = *state;
        match &mut state.count {
            None => met,
            Some(0) => {
                *state = Misbehaviour::default();
                *state
            }
            Some(left) => {
                *left -= 1;
                met
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_runs_out() {
        let switch = Switch::new(Misbehaviour { mode: Mode::Silent, count: Some(2), ms: 0 });
        let met: Vec<Mode> = (0..4).map(|_| switch.next().mode).collect();
        assert_eq!(met, [Mode::Silent, Mode::Silent, Mode::None, Mode::None]);
        switch.set(Misbehaviour { mode: Mode::Error500, count: None, ms: 0 });
        assert!((0..9).all(|_| switch.next().mode == Mode::Error500));
    }

    #[test]
    fn text_forms_are_read() {
        assert_eq!("slow:250".parse(), Ok(Misbehaviour { mode: Mode::Slow, count: None, ms: 250 }));
        assert_eq!("error_500".parse::<Misbehaviour>().map(|set| set.mode), Ok(Mode::Error500));
        assert!("lazy".parse::<Misbehaviour>().is_err());
        assert!("slow:x".parse::<Misbehaviour>().is_err());
        let json: Misbehaviour = serde_json::from_str(r#"{"mode":"bad_signature","count":1}"#).unwrap();
        assert_eq!(json, Misbehaviour { mode: Mode::BadSignature, count: Some(1), ms: 0 });
    }
}
