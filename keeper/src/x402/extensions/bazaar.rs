//! Extension `bazaar`: what servers say of the resources that were paid for, for a catalogue of them.
//! It comes through the payer's hands, so it is bounded, checked, and stripped of what may be of one request: the query, values in
//! the path, headers. Whether the payer may speak for the URL nobody can tell: an entry says that somebody was paid for it.
//! Source: specs/extensions/bazaar.md of x402, "Facilitator Behavior".

use alloy::primitives::{Address, B256, keccak256};
use reqwest::Url;
use serde_json::{Map, Value, json};

use super::schema;
use crate::x402::networks;
use crate::x402::wire::Request;

/// Name of the extension.
pub const NAME: &str = "bazaar";

/// Bytes of a declaration that is looked at.
const MOST_EXTENSION: usize = 16 * 1024;
/// Bytes of what is kept of one resource, and of one way to pay for it.
const MOST_DETAILS: usize = 8 * 1024;
const MOST_TERMS: usize = 2 * 1024;
const MOST_URL: usize = 2_048;
const MOST_DESCRIPTION: usize = 500;

/// Members of `extra` that are of the offer; the rest may be of one payer.
const EXTRA: [&str; 7] = [
    "name",
    "version",
    "assetTransferMethod",
    "facilitatorAddress",
    "receiverAuthorizer",
    "withdrawDelay",
    "minDeposit",
];

/// A resource that was paid for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Hash of URL, kind and name.
    pub resource_id: B256,
    pub url: String,
    /// http or mcp
    pub kind: &'static str,
    /// Members of the catalogue's item besides URL, kind, accepts and time (JSON object).
    pub details: String,
    pub terms: Terms,
}

/// One way to pay for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    pub terms_id: B256,
    pub scheme: String,
    pub network: String,
    pub pay_to: Address,
    /// `PaymentRequirements` (JSON).
    pub requirements: String,
}

/// Whether a payment's server declared what it sells.
pub fn declared(request: &Request) -> bool {
    request.version == 2 && request.extensions.contains_key(NAME)
}

/// The catalogue's entry that a payment's request makes.
///
/// # Errors
/// A sentence that says why it makes none.
pub fn entry(body: &[u8]) -> Result<Entry, String> {
    let body: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let payload = &body["paymentPayload"];
    let extension = &payload["extensions"][NAME];
    // Before the schema is worked through: it is a stranger's.
    if extension.to_string().len() > MOST_EXTENSION {
        return Err(format!("it is larger than {MOST_EXTENSION} bytes"));
    }
    let mut info = extension["info"].as_object().ok_or("info is missing")?.clone();
    schema::check(&extension["schema"], &Value::Object(info.clone()))?;
    let input = info.get_mut("input").and_then(Value::as_object_mut).ok_or("info.input is missing")?;
    let (kind, name) = described(input)?;
    let (kind, name) = (kind, name.to_owned());
    for of_one_request in ["pathParams", "headers"] {
        input.remove(of_one_request);
    }
    let resource = &payload["resource"];
    let template = extension["routeTemplate"].as_str().filter(|template| kind == "http" && is_template(template));
    let url = canonical(resource["url"].as_str().unwrap_or_default(), template)?;
    let mut said = json!({ "info": info, "schema": extension["schema"] });
    if let Some(template) = template {
        said["routeTemplate"] = json!(template);
    }
    let mut details = metadata(resource);
    details.insert("x402Version".to_owned(), json!(2));
    details.insert("extensions".to_owned(), json!({ NAME: said }));
    let details = Value::Object(details).to_string();
    if details.len() > MOST_DETAILS {
        return Err(format!("it is larger than {MOST_DETAILS} bytes"));
    }
    let resource_id = keccak256(json!([url, kind, name]).to_string());
    Ok(Entry { resource_id, url, kind, details, terms: terms(&payload["accepted"])? })
}

/// Kind and name of what is described: the method, or the tool.
fn described(input: &Map<String, Value>) -> Result<(&'static str, &str), String> {
    let text = |name: &str| input.get(name).and_then(Value::as_str);
    let one_of = |name: &str, all: &[&str]| match input.get(name) {
        None => Ok(()),
        Some(value) if value.as_str().is_some_and(|value| all.contains(&value)) => Ok(()),
        Some(_) => Err(format!("info.input.{name} is none of {}", all.join(", "))),
    };
    match text("type") {
        Some("http") => {
            let with_body = ["POST", "PUT", "PATCH"];
            one_of("method", &["GET", "HEAD", "DELETE", "POST", "PUT", "PATCH"])?;
            one_of("bodyType", &["json", "form-data", "text"])?;
            if input.contains_key("bodyType") && text("method").is_some_and(|method| !with_body.contains(&method)) {
                return Err("info.input.bodyType does not go with this method".to_owned());
            }
            Ok(("http", text("method").unwrap_or_default()))
        }
        Some("mcp") => {
            one_of("transport", &["streamable-http", "sse"])?;
            if !input.get("inputSchema").is_some_and(Value::is_object) {
                return Err("info.input.inputSchema is missing".to_owned());
            }
            let tool = text("toolName").filter(|name| !name.is_empty()).ok_or("info.input.toolName is missing")?;
            Ok(("mcp", tool))
        }
        _ => Err("info.input.type is neither http nor mcp".to_owned()),
    }
}

/// Origin and path, or the template in place of the path. What stands behind `?` and `#` may be private.
fn canonical(url: &str, template: Option<&str>) -> Result<String, String> {
    let parsed = Url::parse(url).map_err(|_| "resource.url is no URL".to_owned())?;
    if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none() {
        return Err("resource.url is neither http nor https".to_owned());
    }
    let origin = parsed.origin().ascii_serialization();
    let url = format!("{origin}{}", template.unwrap_or_else(|| parsed.path()));
    if url.len() > MOST_URL { Err(format!("resource.url is longer than {MOST_URL} bytes")) } else { Ok(url) }
}

/// Whether a path with `:names` is safe to stand for the path: the rules of the extension, percent signs decoded as far as they go.
fn is_template(template: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_/:.-~%".contains(c);
    if template.len() < 2 || !template.starts_with('/') || !template.chars().all(plain) {
        return false;
    }
    let mut decoded = template.as_bytes().to_vec();
    for _ in 0..5 {
        let Some(next) = unescaped(&decoded) else { return false };
        if next == decoded {
            let has = |part: &[u8]| decoded.windows(part.len()).any(|window| window == part);
            return !has(b"..") && !has(b"://");
        }
        decoded = next;
    }
    false
}

fn unescaped(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut found = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            found.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            found.push(*first);
            rest = after;
        }
    }
    Some(found)
}

/// What the server says of its service, as far as it fits the extension's rules; the rest is left out.
fn metadata(resource: &Value) -> Map<String, Value> {
    let mut kept = Map::new();
    let short = |text: &&str| !text.is_empty() && text.len() <= 32 && text.bytes().all(|b| (0x20..0x7f).contains(&b));
    for (name, most) in [("description", MOST_DESCRIPTION), ("mimeType", 100)] {
        if let Some(text) = resource[name].as_str().filter(|text| !text.is_empty()) {
            kept.insert(name.to_owned(), json!(text.chars().take(most).collect::<String>()));
        }
    }
    if let Some(name) = resource["serviceName"].as_str().filter(short) {
        kept.insert("serviceName".to_owned(), json!(name));
    }
    let mut tags: Vec<&str> = Vec::new();
    for tag in resource["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).filter(short) {
        if tags.len() < 5 && !tags.iter().any(|known| known.eq_ignore_ascii_case(tag)) {
            tags.push(tag);
        }
    }
    if !tags.is_empty() {
        kept.insert("tags".to_owned(), json!(tags));
    }
    if let Some(icon) = resource["iconUrl"].as_str().filter(|icon| is_icon(icon)) {
        kept.insert("iconUrl".to_owned(), json!(icon));
    }
    kept
}

/// Whether a URL may be fetched by those who show the catalogue: of a host with a name, not of their own network.
fn is_icon(icon: &str) -> bool {
    let Ok(url) = Url::parse(icon) else { return false };
    // The parser has decoded and normalised the host, and made numbers addresses.
    let local = ["localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"];
    let named = url.domain().is_some_and(|host| {
        let digits = host.bytes().all(|b| b.is_ascii_digit());
        !host.is_empty() && !digits && !local.contains(&host) && !host.starts_with("0x")
    });
    icon.len() <= MOST_URL
        && !icon.bytes().any(|b| b < 0x20 || b == 0x7f)
        && matches!(url.scheme(), "http" | "https")
        && url.username().is_empty()
        && url.password().is_none()
        && named
}

/// What the server offered, which the payer accepted.
fn terms(accepted: &Value) -> Result<Terms, String> {
    let text = |name: &str| accepted[name].as_str().ok_or_else(|| format!("accepted.{name} is missing"));
    let (scheme, network) = (text("scheme")?, text("network")?);
    let account = |name: &str| text(name)?.parse::<Address>().map_err(|_| format!("accepted.{name} is no address"));
    let (asset, pay_to) = (account("asset")?, account("payTo")?);
    networks::chain_id(2, network).ok_or("accepted.network is unknown")?;
    let mut extra = accepted["extra"].as_object().cloned().unwrap_or_default();
    extra.retain(|name, _| EXTRA.contains(&name.as_str()));
    let seconds = &accepted["maxTimeoutSeconds"];
    let requirements =
        json!({ "scheme": scheme, "network": network, "amount": text("amount")?, "asset": asset.to_string(),
        "payTo": pay_to.to_string(), "maxTimeoutSeconds": if seconds.is_number() { seconds.clone() } else { json!(0) },
        "extra": extra })
        .to_string();
    if requirements.len() > MOST_TERMS {
        return Err(format!("accepted is larger than {MOST_TERMS} bytes"));
    }
    let terms_id = keccak256(json!([scheme, network, asset, pay_to]).to_string());
    Ok(Terms { terms_id, scheme: scheme.to_owned(), network: network.to_owned(), pay_to, requirements })
}

/// What the server is told of its declaration (`EXTENSION-RESPONSES`): it is catalogued after the answer.
pub fn outcome(body: &[u8]) -> Value {
    match entry(body) {
        Ok(_) => json!({ "status": "processing" }),
        // It may quote the declaration, and goes into a header.
        Err(reason) => json!({ "status": "rejected", "rejectedReason": reason.chars().take(200).collect::<String>() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body() -> Value {
        let accepted = json!({ "scheme": "exact", "network": "eip155:8453", "amount": "10", "maxTimeoutSeconds": 60,
            "asset": Address::repeat_byte(3), "payTo": Address::repeat_byte(2),
            "extra": { "name": "USD Coin", "version": "2", "voucherState": { "signature": "0x01" } } });
        let schema = json!({ "type": "object", "properties": { "input": { "type": "object",
            "properties": { "type": { "const": "http" }, "method": { "enum": ["GET"] }, "queryParams": { "type": "object" },
                "pathParams": { "type": "object" } } } }, "required": ["input"] });
        json!({ "x402Version": 2, "paymentRequirements": accepted, "paymentPayload": { "x402Version": 2, "accepted": accepted,
            "payload": {}, "resource": { "url": "https://user:pass@seller.example/ask/7?prompt=secret#part",
                "description": "answers", "mimeType": "application/json", "serviceName": "Answers", "iconUrl": "http://127.0.0.1/i",
                "tags": ["ai", "AI", "", 7, "b", "c", "d", "e", "f"] },
            "extensions": { "payment-identifier": { "info": { "id": "private-identifier" } }, NAME: { "schema": schema,
                "info": { "input": { "type": "http", "method": "GET", "queryParams": { "prompt": "a question" },
                    "pathParams": { "id": "7" }, "headers": { "authorization": "secret" } } } } } } })
    }

    fn read(body: &Value) -> Result<Entry, String> {
        entry(body.to_string().as_bytes())
    }

    #[test]
    fn keeps_what_is_of_the_server_and_nothing_of_one_request() {
        let entry = read(&body()).unwrap();
        assert_eq!((entry.url.as_str(), entry.kind), ("https://seller.example/ask/7", "http"));
        let kept = format!("{}{}{}", entry.url, entry.details, entry.terms.requirements);
        for private in ["secret", "user", "pass", "private-identifier", "voucherState", "\"7\""] {
            assert!(!kept.contains(private), "{private}: {kept}");
        }
        let details: Value = serde_json::from_str(&entry.details).unwrap();
        assert_eq!(details["tags"], json!(["ai", "b", "c", "d", "e"]));
        assert_eq!((&details["serviceName"], details.get("iconUrl")), (&json!("Answers"), None));
        let input = json!({ "type": "http", "method": "GET", "queryParams": { "prompt": "a question" } });
        assert_eq!(details.pointer("/extensions/bazaar/info/input"), Some(&input));
        let terms: Value = serde_json::from_str(&entry.terms.requirements).unwrap();
        assert_eq!(terms["extra"], json!({ "name": "USD Coin", "version": "2" }));
        assert_eq!((&terms["amount"], &terms["maxTimeoutSeconds"]), (&json!("10"), &json!(60)));
    }

    #[test]
    fn one_route_is_one_resource() {
        let mut routed = body();
        routed["paymentPayload"]["extensions"][NAME]["routeTemplate"] = json!("/ask/:id");
        let first = read(&routed).unwrap();
        routed["paymentPayload"]["resource"]["url"] = json!("https://seller.example/ask/8");
        let second = read(&routed).unwrap();
        assert_eq!((second.url.as_str(), second.resource_id), ("https://seller.example/ask/:id", first.resource_id));
        for bad in
            ["", "/", "ask", "/a/../b", "/a/%2e%2e/b", "/a/%252e%252e/b", "/%", "/a?b", "/a%3A%2F%2Fb", "//e vil"]
        {
            routed["paymentPayload"]["extensions"][NAME]["routeTemplate"] = json!(bad);
            assert_eq!(read(&routed).unwrap().url, "https://seller.example/ask/8", "{bad}");
        }
    }

    #[test]
    fn refuses_what_does_not_hold() {
        let changed = |pointer: &str, value: Value| {
            let mut body = body();
            *body.pointer_mut(pointer).unwrap() = value;
            read(&body).unwrap_err()
        };
        let extension = "/paymentPayload/extensions/bazaar";
        for (pointer, value, says) in [
            (format!("{extension}/info"), json!(null), "info is missing"),
            (format!("{extension}/info/input"), json!({ "type": "ftp" }), "does not fit const"),
            (format!("{extension}/info/input/method"), json!("POST"), "does not fit enum"),
            (format!("{extension}/schema"), json!({ "$ref": "https://elsewhere.example" }), "not checked here"),
            (format!("{extension}/schema"), json!(null), "no schema"),
            (format!("{extension}/info/input/queryParams"), json!({ "a": "x".repeat(9_000) }), "larger than 8192"),
            (format!("{extension}/info/input/queryParams"), json!({ "a": "x".repeat(17_000) }), "larger than 16384"),
            ("/paymentPayload/resource/url".to_owned(), json!("file:///etc/passwd"), "neither http nor https"),
            ("/paymentPayload/resource/url".to_owned(), json!("seller.example"), "no URL"),
            ("/paymentPayload/accepted/payTo".to_owned(), json!("0x1"), "no address"),
            ("/paymentPayload/accepted/network".to_owned(), json!("base"), "unknown"),
        ] {
            let found = changed(&pointer, value);
            assert!(found.contains(says), "{pointer}: {found}");
        }
        let mut free = body();
        free["paymentPayload"]["extensions"][NAME] =
            json!({ "schema": {}, "info": { "input": { "type": "http", "method": "GET", "bodyType": "json" } } });
        assert!(read(&free).unwrap_err().contains("does not go with this method"));
        free["paymentPayload"]["extensions"][NAME]["info"]["input"] = json!({ "type": "mcp", "inputSchema": {} });
        assert!(read(&free).unwrap_err().contains("toolName is missing"));
        free["paymentPayload"]["extensions"][NAME]["info"]["input"] =
            json!({ "type": "mcp", "inputSchema": {}, "toolName": "ask" });
        assert_eq!(read(&free).unwrap().kind, "mcp");
    }

    #[test]
    fn icons_are_of_named_hosts() {
        assert!(is_icon("https://seller.example/icon.png"));
        for bad in [
            "data:image/png;base64,AA",
            "http://localhost/i",
            "http://127.0.0.1/i",
            "http://2130706433/i",
            "http://0x7f000001/i",
            "http://[::1]/i",
            "https://user@seller.example/i",
            "http://%6cocalhost/i",
            "https://sel\nler.example/i",
            "icon.png",
        ] {
            assert!(!is_icon(bad), "{bad}");
        }
    }
}
