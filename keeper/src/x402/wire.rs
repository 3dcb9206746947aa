//! Requests and answers of the facilitator, versions 1 and 2 of x402. Unknown members are ignored, types are strict.

use alloy::primitives::{Address, B256, U256};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::networks;
use super::read::At;
use super::reasons::{Fault, Reason};

/// Longest URL that is kept.
const MAX_URL: usize = 2_048;

/// What a server asks for; in version 1 `amount` is `maxAmountRequired`.
#[derive(Clone, Debug)]
pub struct Requirements {
    pub scheme: String,
    pub network: String,
    pub amount: U256,
    pub asset: Address,
    pub pay_to: Address,
    /// Empty when there is none.
    pub extra: Map<String, Value>,
}

impl Requirements {
    fn read(version: u8, at: &At<'_>) -> Result<Self, Fault> {
        let amount = at.get(if version == 1 { "maxAmountRequired" } else { "amount" })?.uint()?;
        if let Some(seconds) = at.maybe("maxTimeoutSeconds")? {
            let value = seconds.value();
            let plain = value.as_f64().is_some_and(|seconds| seconds.is_finite() && seconds >= 0.0);
            if !plain {
                return Err(seconds.wrong("must be a number of seconds"));
            }
        }
        Ok(Self {
            scheme: at.get("scheme")?.text()?.to_owned(),
            network: at.get("network")?.text()?.to_owned(),
            amount,
            asset: at.get("asset")?.address()?,
            pay_to: at.get("payTo")?.address()?,
            extra: at.maybe("extra")?.map(|extra| extra.object().cloned()).transpose()?.unwrap_or_default(),
        })
    }

    /// A member of `extra` that is a text with something in it.
    pub fn extra_text(&self, name: &str) -> Option<&str> {
        self.extra.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
    }
}

/// A request to verify or to settle.
#[derive(Clone, Debug)]
pub struct Request {
    pub version: u8,
    /// As the payload says in version 1, as `accepted` says in version 2.
    pub scheme: String,
    pub network: String,
    pub chain_id: u64,
    /// What the payer accepted; version 2.
    pub accepted: Option<Requirements>,
    pub requirements: Requirements,
    /// Of the scheme.
    pub payload: Value,
    pub extensions: Map<String, Value>,
    /// URL of what is paid for.
    pub resource: Option<String>,
}

/// What can be said of a request that cannot be read as a whole.
#[derive(Clone, Debug, Default)]
pub struct Outline {
    /// As the requirements, or else the payload, name it; empty when nothing does.
    pub network: String,
    pub payer: Option<Address>,
}

impl Outline {
    fn of(body: &Value) -> Self {
        let text = |pointers: &[&str]| pointers.iter().find_map(|pointer| body.pointer(pointer)?.as_str());
        let network =
            text(&["/paymentRequirements/network", "/paymentPayload/accepted/network", "/paymentPayload/network"]);
        let payer = text(&[
            "/paymentPayload/payload/authorization/from",
            "/paymentPayload/payload/permit2Authorization/from",
            "/paymentPayload/payload/channelConfig/payer",
        ]);
        Self { network: network.unwrap_or_default().to_owned(), payer: payer.and_then(|payer| payer.parse().ok()) }
    }
}

impl Request {
    /// Reads a body. What can be said in any case comes along with a refusal too.
    ///
    /// # Errors
    /// `invalid_payload` naming the member, `invalid_x402_version`, `invalid_network`.
    pub fn parse(body: &[u8]) -> (Outline, Result<Self, Fault>) {
        let value: Value = match serde_json::from_slice(body) {
            Ok(value) => value,
            Err(error) => {
                let text = format!("the body cannot be read as JSON: {error}");
                return (Outline::default(), Err(Fault::new(Reason::InvalidPayload, text)));
            }
        };
        let outline = Outline::of(&value);
        let read = Self::read(&value).map_err(|fault| Fault { payer: fault.payer.or(outline.payer), ..fault });
        (outline, read)
    }

    fn read(body: &Value) -> Result<Self, Fault> {
        let root = At::root(body, "");
        let payload = root.get("paymentPayload")?;
        let stated = payload.get("x402Version")?.number()?;
        if let Some(outer) = root.maybe("x402Version")?.filter(|outer| outer.number() != Ok(stated)) {
            let found = outer.number()?;
            return Err(Fault::differs(Reason::InvalidVersion, "x402Version", found, stated));
        }
        let version = match stated {
            1 => 1,
            2 => 2,
            other => return Err(Fault::differs(Reason::InvalidVersion, "x402Version", other, "1 or 2")),
        };
        let requirements = root.get("paymentRequirements")?;
        let (accepted, own) = if version == 1 {
            (None, payload.clone())
        } else {
            let own = payload.get("accepted")?;
            (Some(Requirements::read(2, &own)?), own)
        };
        let (scheme, network) = (own.get("scheme")?.text()?.to_owned(), own.get("network")?.text()?.to_owned());
        let resource = if version == 1 {
            requirements.maybe("resource")?.map(|url| url.text()).transpose()?
        } else {
            match payload.maybe("resource")? {
                Some(resource) => resource.maybe("url")?.map(|url| url.text()).transpose()?,
                None => None,
            }
        };
        let requirements = Requirements::read(version, &requirements)?;
        let chain_id = networks::chain_id(version, &requirements.network).ok_or_else(|| {
            let text = format!("paymentRequirements.network is {:?}: see /supported", requirements.network);
            Fault::new(Reason::InvalidNetwork, text)
        })?;
        Ok(Self {
            version,
            scheme,
            network,
            chain_id,
            accepted,
            requirements,
            payload: payload.get("payload")?.value().clone(),
            extensions: payload
                .maybe("extensions")?
                .map(|extensions| extensions.object().cloned())
                .transpose()?
                .unwrap_or_default(),
            // PostgreSQL keeps no text with a zero in it.
            resource: resource
                .map(|url| url.chars().filter(|c| *c != '\0').take(MAX_URL).collect::<String>())
                .filter(|url| !url.is_empty()),
        })
    }

    /// The scheme's own part of the request.
    pub fn part(&self) -> At<'_> {
        At::root(&self.payload, "paymentPayload.payload")
    }

    /// Content of an extension, `info` of it where it has one.
    pub fn extension(&self, name: &str) -> Option<&Value> {
        let extension = self.extensions.get(name)?;
        Some(extension.get("info").unwrap_or(extension))
    }
}

/// Answer of `POST /verify`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    pub is_valid: bool,
    /// Stable; those of the reference libraries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invalid_reason: Option<&'static str>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invalid_message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub payer: Option<Address>,
    /// State of the channel, for batch-settlement.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub extra: Option<Value>,
}

impl Verified {
    /// A payment that would be settled now.
    pub const fn valid(payer: Address, extra: Option<Value>) -> Self {
        Self { is_valid: true, invalid_reason: None, invalid_message: None, payer: Some(payer), extra }
    }
}

impl From<Fault> for Verified {
    fn from(fault: Fault) -> Self {
        Self {
            is_valid: false,
            invalid_reason: Some(fault.reason.as_str()),
            invalid_message: Some(fault.message),
            payer: fault.payer,
            extra: None,
        }
    }
}

/// Answer of `POST /settle`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SettledAnswer {
    pub success: bool,
    /// Hash of the transaction; empty when there is none.
    pub transaction: String,
    /// As the request names it.
    pub network: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub payer: Option<Address>,
    /// Token units that moved, for schemes where that may be less than what was signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// State of the channel, for batch-settlement.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub extra: Option<Value>,
    /// By name: `offer-receipt` holds the facilitator's signed receipt, if the payment asks for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub extensions: Option<Value>,
    /// For the server only, by name of extension (`EXTENSION-RESPONSES`).
    #[serde(skip)]
    pub told: Option<Value>,
    /// The payment, for a caller that does not wait for its result.
    #[serde(skip)]
    pub job: Option<B256>,
}

impl SettledAnswer {
    /// A payment that is not settled, and nothing of it was sent.
    pub fn refused(network: String, fault: Fault) -> Self {
        Self {
            success: false,
            transaction: String::new(),
            network,
            payer: fault.payer,
            amount: None,
            error_reason: Some(fault.reason.as_str().to_owned()),
            error_message: Some(fault.message),
            extra: None,
            extensions: None,
            told: None,
            job: None,
        }
    }
}

/// One pair of scheme and network.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Kind {
    #[serde(rename = "x402Version")]
    pub x402_version: u8,
    pub scheme: &'static str,
    pub network: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub extra: Option<Value>,
}

/// Answer of `GET /supported`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Supported {
    pub kinds: Vec<Kind>,
    pub extensions: Vec<&'static str>,
    /// Accounts that send transactions, by kind of network.
    #[schema(value_type = Object)]
    pub signers: std::collections::BTreeMap<&'static str, Vec<Address>>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn v2() -> Value {
        let asked = json!({ "scheme": "exact", "network": "eip155:8453", "amount": "10", "maxTimeoutSeconds": 60,
            "asset": Address::repeat_byte(3), "payTo": Address::repeat_byte(2), "extra": { "name": "USD Coin", "version": "2" } });
        json!({ "x402Version": 2, "paymentRequirements": asked, "paymentPayload": { "x402Version": 2, "accepted": asked,
            "payload": { "authorization": { "from": Address::repeat_byte(1) } }, "resource": { "url": "https://a/b" } } })
    }

    fn read(value: &Value) -> Result<Request, Fault> {
        Request::parse(value.to_string().as_bytes()).1
    }

    #[test]
    fn reads_what_clients_send_and_names_what_is_wrong() {
        let request = read(&v2()).unwrap();
        assert_eq!((request.version, request.chain_id, request.resource.as_deref()), (2, 8453, Some("https://a/b")));
        assert_eq!(request.requirements.extra_text("name"), Some("USD Coin"));
        for (url, kept) in [("https://a/\0b", Some("https://a/b")), ("\0", None), ("", None)] {
            let mut body = v2();
            body["paymentPayload"]["resource"]["url"] = json!(url);
            assert_eq!(read(&body).unwrap().resource.as_deref(), kept);
        }
        for (pointer, bad, reason, says) in [
            ("/x402Version", json!(1), Reason::InvalidVersion, "x402Version"),
            ("/paymentPayload/x402Version", json!(3), Reason::InvalidVersion, "x402Version"),
            ("/paymentPayload/x402Version", json!("2"), Reason::InvalidPayload, "paymentPayload.x402Version"),
            ("/paymentPayload/accepted", json!(null), Reason::InvalidPayload, "paymentPayload.accepted is missing"),
            ("/paymentPayload/payload", json!(null), Reason::InvalidPayload, "paymentPayload.payload is missing"),
            ("/paymentPayload/extensions", json!([]), Reason::InvalidPayload, "paymentPayload.extensions"),
            ("/paymentRequirements/amount", json!(10), Reason::InvalidPayload, "paymentRequirements.amount"),
            ("/paymentRequirements/payTo", json!("0x1"), Reason::InvalidPayload, "paymentRequirements.payTo"),
            ("/paymentRequirements/network", json!("base"), Reason::InvalidNetwork, "paymentRequirements.network"),
            ("/paymentRequirements", json!([]), Reason::InvalidPayload, "paymentRequirements must be an object"),
        ] {
            let mut body = v2();
            *body.pointer_mut(pointer).unwrap_or(&mut json!(null)) = bad.clone();
            if pointer == "/paymentPayload/extensions" {
                body["paymentPayload"]["extensions"] = bad;
            }
            if pointer == "/paymentPayload/x402Version" && reason == Reason::InvalidVersion {
                body["x402Version"] = json!(3);
            }
            let fault = read(&body).unwrap_err();
            assert_eq!(fault.reason, reason, "{pointer}: {fault}");
            assert!(fault.message.contains(says), "{pointer}: {fault}");
            assert_eq!(
                fault.payer,
                (pointer != "/paymentPayload/payload").then_some(Address::repeat_byte(1)),
                "{pointer}"
            );
        }
    }

    #[test]
    fn says_what_it_can_of_what_it_cannot_read() {
        let (outline, read) = Request::parse(b"{");
        assert_eq!((outline.network.as_str(), read.unwrap_err().reason), ("", Reason::InvalidPayload));
        let body = json!({ "paymentPayload": { "accepted": { "network": "eip155:1" } } });
        let (outline, read) = Request::parse(body.to_string().as_bytes());
        assert_eq!(outline.network, "eip155:1");
        assert_eq!(read.unwrap_err().message, "paymentPayload.x402Version is missing");
    }

    #[test]
    fn version_one() {
        let asked = json!({ "scheme": "exact", "network": "base", "maxAmountRequired": "10", "resource": "https://a",
            "description": "", "mimeType": "", "maxTimeoutSeconds": 60,
            "asset": Address::repeat_byte(3), "payTo": Address::repeat_byte(2) });
        let body = json!({ "x402Version": 1, "paymentRequirements": asked,
            "paymentPayload": { "x402Version": 1, "scheme": "exact", "network": "base", "payload": {} } });
        let request = read(&body).unwrap();
        assert_eq!((request.version, request.chain_id, request.resource.as_deref()), (1, 8453, Some("https://a")));
        assert_eq!(request.requirements.amount, U256::from(10));
    }

    #[test]
    fn answers_have_all_that_clients_insist_on() {
        let fault = Fault::new(Reason::InvalidPayload, "x");
        let text = serde_json::to_value(SettledAnswer::refused("eip155:1".to_owned(), fault.clone())).unwrap();
        assert_eq!(
            text,
            json!({ "success": false, "transaction": "", "network": "eip155:1", "errorReason": "invalid_payload",
                "errorMessage": "x" })
        );
        let text = serde_json::to_value(Verified::from(fault)).unwrap();
        assert_eq!(text, json!({ "isValid": false, "invalidReason": "invalid_payload", "invalidMessage": "x" }));
    }
}
