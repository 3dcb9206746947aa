//! Reading JSON member by member, so that a refusal names the member that is wrong.

use alloy::primitives::{Address, B256, Bytes, U256};
use serde_json::{Map, Value};

use super::reasons::{Fault, Reason};

/// A JSON value and where it stands.
#[derive(Clone, Debug)]
pub struct At<'a> {
    value: &'a Value,
    path: String,
}

impl<'a> At<'a> {
    /// The value that everything is in; `name` may be empty.
    pub fn root(value: &'a Value, name: &str) -> Self {
        Self { value, path: name.to_owned() }
    }

    /// The value itself.
    pub const fn value(&self) -> &'a Value {
        self.value
    }

    /// Where it stands.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The refusal of this value.
    pub fn wrong(&self, what: &str) -> Fault {
        let place = if self.path.is_empty() { "the body" } else { &self.path };
        Fault::new(Reason::InvalidPayload, format!("{place} {what}"))
    }

    /// A member that may be missing; null counts as missing.
    ///
    /// # Errors
    /// `invalid_payload` when this is no object.
    pub fn maybe(&self, name: &str) -> Result<Option<Self>, Fault> {
        let object = self.object()?;
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Ok(object.get(name).filter(|value| !value.is_null()).map(|value| Self { value, path }))
    }

    /// A member.
    ///
    /// # Errors
    /// `invalid_payload` when it is missing.
    pub fn get(&self, name: &str) -> Result<Self, Fault> {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        self.maybe(name)?.ok_or_else(|| Fault::new(Reason::InvalidPayload, format!("{path} is missing")))
    }

    /// # Errors
    /// `invalid_payload` when this is no object.
    pub fn object(&self) -> Result<&'a Map<String, Value>, Fault> {
        self.value.as_object().ok_or_else(|| self.wrong("must be an object"))
    }

    /// The elements of an array.
    ///
    /// # Errors
    /// `invalid_payload` when this is none.
    pub fn items(&self) -> Result<Vec<Self>, Fault> {
        let items = self.value.as_array().ok_or_else(|| self.wrong("must be an array"))?;
        let at = |(index, value)| Self { value, path: format!("{}[{index}]", self.path) };
        Ok(items.iter().enumerate().map(at).collect())
    }

    /// # Errors
    /// `invalid_payload` when this is no text.
    pub fn text(&self) -> Result<&'a str, Fault> {
        self.value.as_str().ok_or_else(|| self.wrong("must be a text"))
    }

    /// # Errors
    /// `invalid_payload` when this is no text of 20 bytes in hexadecimal.
    pub fn address(&self) -> Result<Address, Fault> {
        let text = self.text()?;
        let parsed = text.starts_with("0x").then(|| text.parse().ok()).flatten();
        parsed.ok_or_else(|| self.wrong("must be an address: 0x and 40 hexadecimal digits"))
    }

    /// # Errors
    /// `invalid_payload` when this is no text of 32 bytes in hexadecimal.
    pub fn word(&self) -> Result<B256, Fault> {
        let text = self.text()?;
        let parsed = text.starts_with("0x").then(|| text.parse().ok()).flatten();
        parsed.ok_or_else(|| self.wrong("must be 32 bytes: 0x and 64 hexadecimal digits"))
    }

    /// # Errors
    /// `invalid_payload` when this is no text of bytes in hexadecimal.
    pub fn bytes(&self) -> Result<Bytes, Fault> {
        let text = self.text()?;
        let parsed = text.strip_prefix("0x").and_then(|digits| hex::decode(digits).ok());
        parsed.map(Bytes::from).ok_or_else(|| self.wrong("must be bytes: 0x and hexadecimal digits"))
    }

    /// A whole number as decimal text.
    ///
    /// # Errors
    /// `invalid_payload` when this is none, or above 2^256 - 1.
    pub fn uint(&self) -> Result<U256, Fault> {
        let text = self.text()?;
        let digits = !text.is_empty() && text.len() <= 100 && text.bytes().all(|digit| digit.is_ascii_digit());
        let parsed = digits.then(|| U256::from_str_radix(text, 10).ok()).flatten();
        parsed.ok_or_else(|| self.wrong("must be a whole number as decimal text, below 2^256"))
    }

    /// A whole number as JSON number.
    ///
    /// # Errors
    /// `invalid_payload` when this is none.
    pub fn number(&self) -> Result<u64, Fault> {
        self.value.as_u64().ok_or_else(|| self.wrong("must be a whole number"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn refusals_name_the_member() {
        let value = json!({ "a": { "b": [{ "to": "0x12", "n": "1.5", "big": "9".repeat(99) }] }, "no": null });
        let root = At::root(&value, "");
        let item = &root.get("a").unwrap().get("b").unwrap().items().unwrap()[0];
        assert!(item.get("to").unwrap().address().unwrap_err().message.starts_with("a.b[0].to must be an address"));
        assert!(item.get("n").unwrap().uint().unwrap_err().message.starts_with("a.b[0].n must be a whole number"));
        assert!(item.get("big").unwrap().uint().is_err());
        assert_eq!(item.get("gone").unwrap_err().message, "a.b[0].gone is missing");
        assert_eq!(root.get("no").unwrap_err().message, "no is missing");
        assert_eq!(At::root(&json!(7), "").get("x").unwrap_err().message, "the body must be an object");
    }

    #[test]
    fn numbers_and_bytes() {
        let read = |text: &str| At::root(&json!(text), "n").uint().ok();
        assert_eq!(read("007"), Some(U256::from(7)));
        assert_eq!(read(&U256::MAX.to_string()), Some(U256::MAX));
        assert_eq!(read("-1").or(read("0x1")).or(read("")).or(read(" 1")), None);
        let value = json!({ "n": 900, "half": 0.5, "s": "0x0102", "odd": "0x1", "bare": "0102" });
        let root = At::root(&value, "");
        assert_eq!(root.get("n").unwrap().number(), Ok(900));
        assert!(root.get("half").unwrap().number().is_err());
        assert_eq!(root.get("s").unwrap().bytes().unwrap().as_ref(), [1, 2]);
        assert!(root.get("odd").unwrap().bytes().is_err() && root.get("bare").unwrap().bytes().is_err());
    }
}
