//! JSON Schema of strangers, as far as it can be decided here: keywords of structure and number. What a schema needs beyond them
//! makes it unusable rather than half checked, and nothing is ever fetched for it.
//! Source: JSON Schema Draft 2020-12, Core and Validation.

use serde_json::{Map, Value};

/// Steps of one check, and how deep it goes.
const MOST_STEPS: usize = 20_000;
const MOST_DEEP: usize = 24;

/// Keywords that say nothing of what is valid.
const ANNOTATIONS: [&str; 11] = [
    "$schema",
    "$comment",
    "title",
    "description",
    "default",
    "examples",
    "example",
    "format",
    "deprecated",
    "readOnly",
    "writeOnly",
];

/// Whether `value` fits `schema`.
///
/// # Errors
/// A sentence that names the place and the keyword.
pub fn check(schema: &Value, value: &Value) -> Result<(), String> {
    Checker { steps: 0 }.check(schema, value, "info", 0)
}

struct Checker {
    steps: usize,
}

impl Checker {
    fn check(&mut self, schema: &Value, value: &Value, at: &str, depth: usize) -> Result<(), String> {
        self.steps += 1;
        if self.steps > MOST_STEPS || depth > MOST_DEEP {
            return Err("the schema is too large to be checked".to_owned());
        }
        let rules = match schema {
            Value::Bool(true) => return Ok(()),
            Value::Bool(false) => return Err(format!("{at} is not allowed")),
            Value::Object(rules) => rules,
            _ => return Err("the schema is no schema".to_owned()),
        };
        for (keyword, rule) in rules {
            self.keyword(rules, keyword, rule, value, (at, depth))?;
        }
        Ok(())
    }

    fn keyword(
        &mut self,
        rules: &Map<String, Value>,
        keyword: &str,
        rule: &Value,
        value: &Value,
        (at, depth): (&str, usize),
    ) -> Result<(), String> {
        let holds =
            |holds: bool| if holds { Ok(()) } else { Err(format!("{at} does not fit {keyword} of the schema")) };
        match keyword {
            "type" => holds(match rule {
                Value::Array(names) => names.iter().any(|name| is_a(value, name)),
                name => is_a(value, name),
            }),
            "const" => holds(rule == value),
            "enum" => holds(rule.as_array().is_some_and(|all| all.contains(value))),
            "required" => {
                let Value::Object(members) = value else { return Ok(()) };
                let names = rule.as_array().map(Vec::as_slice).unwrap_or_default();
                holds(names.iter().all(|name| name.as_str().is_some_and(|name| members.contains_key(name))))
            }
            "properties" => {
                let (Value::Object(members), Value::Object(rule)) = (value, rule) else { return Ok(()) };
                for (name, member) in members {
                    if let Some(schema) = rule.get(name) {
                        self.check(schema, member, &format!("{at}.{name}"), depth + 1)?;
                    }
                }
                Ok(())
            }
            "additionalProperties" => {
                let Value::Object(members) = value else { return Ok(()) };
                let known = rules.get("properties").and_then(Value::as_object);
                for (name, member) in
                    members.iter().filter(|(name, _)| !known.is_some_and(|all| all.contains_key(*name)))
                {
                    self.check(rule, member, &format!("{at}.{name}"), depth + 1)?;
                }
                Ok(())
            }
            "items" => {
                for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                    self.check(rule, item, &format!("{at}[{n}]"), depth + 1)?;
                }
                Ok(())
            }
            "allOf" | "anyOf" | "oneOf" => {
                let all = rule.as_array().map(Vec::as_slice).unwrap_or_default();
                let mut fitting = 0;
                for schema in all {
                    fitting += usize::from(self.check(schema, value, at, depth + 1).is_ok());
                }
                // A budget that is used up must not look like a schema that does not fit.
                if self.steps > MOST_STEPS {
                    return Err("the schema is too large to be checked".to_owned());
                }
                holds(match keyword {
                    "allOf" => fitting == all.len(),
                    "anyOf" => fitting > 0,
                    _ => fitting == 1,
                })
            }
            "minLength" | "maxLength" => {
                let length = value.as_str().map(|text| text.chars().count());
                bound(keyword, rule, length, at)
            }
            "minItems" | "maxItems" => bound(keyword, rule, value.as_array().map(Vec::len), at),
            "minProperties" | "maxProperties" => bound(keyword, rule, value.as_object().map(Map::len), at),
            "minimum" | "maximum" => {
                let (Some(value), Some(rule)) = (value.as_f64(), rule.as_f64()) else { return Ok(()) };
                holds(if keyword == "minimum" { value >= rule } else { value <= rule })
            }
            other if ANNOTATIONS.contains(&other) => Ok(()),
            other => Err(format!("the schema uses {other:.40}, which is not checked here")),
        }
    }
}

fn is_a(value: &Value, name: &Value) -> bool {
    match name.as_str().unwrap_or_default() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        _ => false,
    }
}

fn bound(keyword: &str, rule: &Value, length: Option<usize>, at: &str) -> Result<(), String> {
    let (Some(length), Some(rule)) = (length, rule.as_u64().and_then(|rule| usize::try_from(rule).ok())) else {
        return Ok(());
    };
    let holds = if keyword.starts_with("min") { length >= rule } else { length <= rule };
    if holds { Ok(()) } else { Err(format!("{at} does not fit {keyword} of the schema")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_fits_and_what_does_not() {
        let schema = json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
            "properties": {
                "method": { "type": "string", "enum": ["GET"] }, "kind": { "const": "http" },
                "tags": { "type": "array", "items": { "type": ["string", "null"], "maxLength": 3 }, "maxItems": 2 },
                "n": { "type": "integer", "minimum": 1, "maximum": 3 },
                "either": { "anyOf": [{ "type": "string" }, { "type": "boolean" }] } },
            "required": ["method"], "additionalProperties": false });
        for good in [
            json!({ "method": "GET" }),
            json!({ "method": "GET", "kind": "http", "tags": ["abc", null], "n": 3, "either": true }),
        ] {
            assert_eq!(check(&schema, &good), Ok(()), "{good}");
        }
        for (bad, says) in [
            (json!({}), "info does not fit required"),
            (json!([]), "info does not fit type"),
            (json!({ "method": "POST" }), "info.method does not fit enum"),
            (json!({ "method": "GET", "kind": "ftp" }), "info.kind does not fit const"),
            (json!({ "method": "GET", "tags": ["abcd"] }), "info.tags[0] does not fit maxLength"),
            (json!({ "method": "GET", "tags": ["a", "b", "c"] }), "info.tags does not fit maxItems"),
            (json!({ "method": "GET", "n": 1.5 }), "info.n does not fit type"),
            (json!({ "method": "GET", "n": 4 }), "info.n does not fit maximum"),
            (json!({ "method": "GET", "either": 1 }), "info.either does not fit anyOf"),
            (json!({ "method": "GET", "more": 1 }), "info.more is not allowed"),
        ] {
            let found = check(&schema, &bad).unwrap_err();
            assert!(found.starts_with(says), "{bad}: {found}");
        }
    }

    #[test]
    fn what_cannot_be_decided_is_no_schema() {
        for schema in [
            json!({ "$ref": "https://elsewhere.example/schema" }),
            json!({ "$id": "file:///etc/passwd" }),
            json!({ "type": "object", "patternProperties": {} }),
            json!("schema"),
        ] {
            assert!(check(&schema, &json!({})).is_err(), "{schema}");
        }
        let mut deep = json!({ "type": "array" });
        let mut value = json!([]);
        for _ in 0..40 {
            deep = json!({ "type": "array", "items": deep });
            value = json!([value]);
        }
        assert_eq!(check(&deep, &value).unwrap_err(), "the schema is too large to be checked");
        let mut wide = json!(true);
        for _ in 0..15 {
            wide = json!({ "oneOf": [wide.clone(), { "allOf": [wide] }] });
        }
        assert_eq!(check(&wide, &json!(1)).unwrap_err(), "the schema is too large to be checked");
    }
}
