//! JSON as Python's `json.loads` reads it: any integer, lone surrogates, `NaN` and `Infinity`, the last duplicate wins.

use std::collections::HashMap;

use crate::error::{Code, Refusal};

/// Levels of nesting that are read. OpenGradient's gateway gives up near 1,000; nothing honest comes near 128.
pub const MAX_DEPTH: usize = 128;

/// Digits of one integer; Python 3.11 and later refuse more.
pub const MAX_DIGITS: usize = 4_300;

/// A Python string: code points including lone surrogates, kept as WTF-8, whose byte order is code-point order.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PyStr(Vec<u8>);

impl PyStr {
    /// The text, unless it holds a lone surrogate.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Whether the string has no characters.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends the characters of `other`.
    pub fn push(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    fn push_code_point(&mut self, code: u32) {
        if let Some(character) = char::from_u32(code) {
            self.0.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            // A surrogate: the three bytes that UTF-8 would use if it were allowed to.
            let low = |shift: u32| u8::try_from((code >> shift) & 0x3f).unwrap_or_default();
            self.0.extend_from_slice(&[0xe0 | low(12), 0x80 | low(6), 0x80 | low(0)]);
        }
    }

    /// Code points in order.
    pub fn code_points(&self) -> impl Iterator<Item = u32> + '_ {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            let (&first, tail) = rest.split_first()?;
            let (mut code, more) = match first {
                0..=0x7f => (u32::from(first), 0),
                0x80..=0xdf => (u32::from(first & 0x1f), 1),
                0xe0..=0xef => (u32::from(first & 0x0f), 2),
                _ => (u32::from(first & 0x07), 3),
            };
            let (bytes, tail) = tail.split_at_checked(more)?;
            for byte in bytes {
                code = code << 6 | u32::from(byte & 0x3f);
            }
            rest = tail;
            Some(code)
        })
    }
}

impl From<&str> for PyStr {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<String> for PyStr {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl std::fmt::Debug for PyStr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// A JSON value with what Python keeps of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    /// Decimal digits with an optional minus, never `-0`.
    Int(String),
    Float(f64),
    Str(PyStr),
    Array(Vec<Json>),
    Object(Object),
}

/// An object in insertion order, as a Python `dict`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object(Vec<(PyStr, Json)>);

impl Object {
    /// The member called `key`.
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.0.iter().find(|(name, _)| name.0 == key.as_bytes()).map(|(_, value)| value)
    }

    /// Members in insertion order.
    pub fn members(&self) -> &[(PyStr, Json)] {
        &self.0
    }

    /// Appends a member that is not there yet.
    pub fn with(mut self, key: &str, value: Json) -> Self {
        self.0.push((key.into(), value));
        self
    }
}

impl Json {
    /// Reads one document.
    ///
    /// # Errors
    /// `malformed` with the byte offset for what Python would not read, invalid UTF-8, nesting or integers beyond the limits.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| malformed(error.valid_up_to(), "the body is not UTF-8: send JSON encoded as UTF-8"))?;
        let mut reader = Reader { bytes: text.as_bytes(), at: 0 };
        reader.space();
        let value = reader.value(0)?;
        reader.space();
        if reader.at < bytes.len() { Err(reader.error("extra data after the JSON value")) } else { Ok(value) }
    }

    /// Python's truth value.
    pub fn is_truthy(&self) -> bool {
        match self {
            Self::Null => false,
            Self::Bool(value) => *value,
            Self::Int(digits) => digits != "0",
            Self::Float(value) => *value != 0.0,
            Self::Str(text) => !text.is_empty(),
            Self::Array(items) => !items.is_empty(),
            Self::Object(object) => !object.0.is_empty(),
        }
    }

    /// The string, if it is one without lone surrogates.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => text.as_str(),
            _ => None,
        }
    }

    /// The object, if it is one.
    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The list, if it is one.
    pub fn as_array(&self) -> Option<&[Json]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    /// A whole number that fits.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Int(digits) => digits.parse().ok(),
            _ => None,
        }
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Str(text.into())
    }
}

fn malformed(at: usize, what: &str) -> Refusal {
    Refusal::new(Code::Malformed, format!("{what} (byte {at})"))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn error(&self, what: &str) -> Refusal {
        malformed(self.at, what)
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, literal: &str) -> bool {
        let found = self.bytes[self.at..].starts_with(literal.as_bytes());
        if found {
            self.at += literal.len();
        }
        found
    }

    fn value(&mut self, depth: usize) -> Result<Json, Refusal> {
        if depth > MAX_DEPTH {
            return Err(self.error("JSON is nested too deeply: at most 128 levels"));
        }
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(Json::Str),
            Some(b'-' | b'0'..=b'9') if !self.bytes[self.at..].starts_with(b"-I") => self.number(),
            Some(_) => {
                for (literal, value) in [
                    ("null", Json::Null),
                    ("true", Json::Bool(true)),
                    ("false", Json::Bool(false)),
                    ("NaN", Json::Float(f64::NAN)),
                    ("Infinity", Json::Float(f64::INFINITY)),
                    ("-Infinity", Json::Float(f64::NEG_INFINITY)),
                ] {
                    if self.take(literal) {
                        return Ok(value);
                    }
                }
                Err(self.error("expected a JSON value"))
            }
            None => Err(self.error("the JSON ends too early")),
        }
    }

    fn array(&mut self, depth: usize) -> Result<Json, Refusal> {
        self.at += 1;
        let mut items = Vec::new();
        self.space();
        if self.take("]") {
            return Ok(Json::Array(items));
        }
        loop {
            self.space();
            items.push(self.value(depth + 1)?);
            self.space();
            if self.take("]") {
                return Ok(Json::Array(items));
            }
            if !self.take(",") {
                return Err(self.error("expected ',' or ']'"));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json, Refusal> {
        self.at += 1;
        let mut members: Vec<(PyStr, Json)> = Vec::new();
        let mut index: HashMap<PyStr, usize> = HashMap::new();
        self.space();
        if self.take("}") {
            return Ok(Json::Object(Object(members)));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.error("expected a member name in double quotes"));
            }
            let key = self.string()?;
            self.space();
            if !self.take(":") {
                return Err(self.error("expected ':'"));
            }
            self.space();
            let value = self.value(depth + 1)?;
            // As in a Python dict: the first occurrence keeps the place, the last one the value.
            if let Some(&place) = index.get(&key) {
                members[place].1 = value;
            } else {
                index.insert(key.clone(), members.len());
                members.push((key, value));
            }
            self.space();
            if self.take("}") {
                return Ok(Json::Object(Object(members)));
            }
            if !self.take(",") {
                return Err(self.error("expected ',' or '}'"));
            }
        }
    }

    fn string(&mut self) -> Result<PyStr, Refusal> {
        self.at += 1;
        let mut text = PyStr::default();
        loop {
            let start = self.at;
            while self.peek().is_some_and(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
                self.at += 1;
            }
            text.0.extend_from_slice(&self.bytes[start..self.at]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => {
                    self.at += 1;
                    let code = self.escape()?;
                    text.push_code_point(code);
                }
                Some(_) => return Err(self.error("control characters must be escaped in strings")),
                None => return Err(self.error("a string does not end")),
            }
        }
    }

    fn escape(&mut self) -> Result<u32, Refusal> {
        let Some(letter) = self.peek() else { return Err(self.error("a string does not end")) };
        self.at += 1;
        Ok(u32::from(match letter {
            b'"' | b'\\' | b'/' => letter,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let first = self.hex4()?;
                let after_first = self.at;
                if (0xd800..0xdc00).contains(&first) && self.take("\\u") {
                    let second = self.hex4()?;
                    if (0xdc00..0xe000).contains(&second) {
                        return Ok(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00));
                    }
                    self.at = after_first;
                }
                return Ok(first);
            }
            _ => return Err(self.error("unknown escape in a string")),
        }))
    }

    fn hex4(&mut self) -> Result<u32, Refusal> {
        let digits = self.bytes.get(self.at..self.at + 4).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let code = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .ok_or_else(|| self.error("\\u needs four hexadecimal digits"))?;
        self.at += 4;
        Ok(code)
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - start
    }

    fn number(&mut self) -> Result<Json, Refusal> {
        let start = self.at;
        let negative = self.take("-");
        let leading_zero = self.peek() == Some(b'0');
        let whole = self.digits();
        if whole == 0 || leading_zero && whole > 1 {
            self.at = start;
            return Err(self.error("malformed number"));
        }
        let mut float = false;
        if self.peek() == Some(b'.') {
            self.at += 1;
            float = true;
            if self.digits() == 0 {
                return Err(self.error("a number needs digits after its point"));
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            float = true;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return Err(self.error("a number needs digits in its exponent"));
            }
        }
        let text = std::str::from_utf8(&self.bytes[start..self.at]).unwrap_or_default();
        if float {
            return text.parse().map(Json::Float).map_err(|_| self.error("malformed number"));
        }
        if whole > MAX_DIGITS {
            return Err(self.error("an integer has more than 4300 digits"));
        }
        Ok(Json::Int(if negative && leading_zero { "0".to_owned() } else { text.to_owned() }))
    }
}
