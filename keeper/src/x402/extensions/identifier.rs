//! Extension `payment-identifier`: a payer's own name for what it pays for. One identifier of a payer stands for one payment, so
//! a client that signs anew because it lost an answer does not pay twice.
//! Source: specs/extensions/payment_identifier.md of x402, "Idempotency Behavior".

use alloy::primitives::{Address, B256};
use serde_json::Value;

use crate::ctx::Ctx;
use crate::error::Result;
use crate::store::identifiers;
use crate::store::payments::NewPayment;
use crate::x402::reasons::{Fault, Reason};
use crate::x402::wire::Request;

/// Name of the extension.
pub const NAME: &str = "payment-identifier";

/// The identifier of a request: 16 to 128 letters, digits, `_` and `-`. `None` when the client gave none and none is required.
///
/// # Errors
/// `invalid_payment_identifier`, `payment_identifier_required`.
pub fn read(request: &Request) -> Result<Option<String>, Fault> {
    let Some(info) = request.extension(NAME) else { return Ok(None) };
    match info.get("id") {
        None | Some(Value::Null) if info.get("required") == Some(&Value::Bool(true)) => {
            let text =
                "the server requires an identifier: put one into paymentPayload.extensions.payment-identifier.info.id";
            Err(Fault::new(Reason::IdentifierRequired, text))
        }
        None | Some(Value::Null) => Ok(None),
        Some(id) => {
            let plain = |id: &&str| id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
            let id = id.as_str().filter(|id| (16..=128).contains(&id.len())).filter(plain);
            let text = "a payment identifier is 16 to 128 letters, digits, _ and -";
            id.map(|id| Some(id.to_owned())).ok_or_else(|| Fault::new(Reason::IdentifierInvalid, text))
        }
    }
}

/// The refusal of a payment whose identifier is missing, malformed, or stands for another payment of the same payer; `None` for
/// a good one. A look ahead: only [`identifiers::claim`] decides.
///
/// # Errors
/// `store_failed`.
pub async fn refusal(ctx: &Ctx, request: &Request, payer: Address, payment_id: B256) -> Result<Option<Fault>> {
    match read(request) {
        Err(fault) => Ok(Some(fault.of(payer))),
        Ok(None) => Ok(None),
        Ok(Some(id)) => {
            let taken = identifiers::is_taken(ctx.store.read(), payer, &id, payment_id).await?;
            Ok(taken.then(|| conflict(Some(payer))))
        }
    }
}

/// The refusal of an identifier that stands for something else: what 409 is between client and server.
pub fn conflict(payer: Option<Address>) -> Fault {
    let text = "this identifier was used for another payment or other requirements: use a new one for a new payment";
    Fault { payer, ..Fault::new(Reason::IdentifierConflict, text) }
}

/// Whether a payment that is known under an identifier is asked for with it again, but for something else.
pub fn differs(known: &NewPayment, request: &Request, asked: alloy::primitives::U256) -> bool {
    let same = match read(request) {
        Ok(Some(id)) => known.identifier.as_deref() == Some(&*id),
        _ => return false,
    };
    let requirements = &request.requirements;
    same && (known.amount != asked
        || known.receiver != requirements.pay_to
        || known.asset != requirements.asset
        || known.scheme != requirements.scheme
        || known.resource != request.resource)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(extension: &Value) -> Request {
        let asked = json!({ "scheme": "exact", "network": "eip155:8453", "amount": "10", "asset": Address::repeat_byte(3),
            "payTo": Address::repeat_byte(2) });
        let body = json!({ "x402Version": 2, "paymentRequirements": asked, "paymentPayload": { "x402Version": 2,
            "accepted": asked, "payload": {}, "extensions": { NAME: extension }, "resource": { "url": "https://a/b" } } });
        Request::parse(body.to_string().as_bytes()).1.unwrap()
    }

    #[test]
    fn reads_what_stock_clients_write_and_refuses_what_is_no_identifier() {
        let id = "pay_7d5d747be160e280504c099d984bcfe0";
        let good = json!({ "info": { "required": true, "id": id }, "schema": {} });
        assert_eq!(read(&request(&good)), Ok(Some(id.to_owned())));
        assert_eq!(read(&request(&json!({ "info": { "required": false } }))), Ok(None));
        assert_eq!(read(&request(&json!({ "info": { "required": false, "id": null } }))), Ok(None));
        let reason = |extension: &Value| read(&request(extension)).unwrap_err().reason;
        assert_eq!(reason(&json!({ "info": { "required": true } })), Reason::IdentifierRequired);
        for bad in
            [json!("short"), json!("x".repeat(129)), json!("sixteen letters!"), json!("äöüäöüäöüäöüäöüäöü"), json!(7)]
        {
            assert_eq!(
                reason(&json!({ "info": { "required": false, "id": bad } })),
                Reason::IdentifierInvalid,
                "{bad}"
            );
        }
    }

    #[test]
    fn one_identifier_is_for_one_thing() {
        let id = "pay_7d5d747be160e280504c099d984bcfe0";
        let asked = request(&json!({ "info": { "required": false, "id": id } }));
        let known = NewPayment {
            identifier: Some(id.to_owned()),
            resource: Some("https://a/b".to_owned()),
            ..crate::store::payments::fixtures::payment(1)
        };
        let ten = alloy::primitives::U256::from(10);
        assert!(!differs(&known, &asked, ten));
        assert!(differs(&known, &asked, ten - alloy::primitives::U256::ONE));
        assert!(differs(&NewPayment { receiver: Address::ZERO, ..known.clone() }, &asked, ten));
        assert!(differs(&NewPayment { resource: None, ..known.clone() }, &asked, ten));
        assert!(
            !differs(&NewPayment { identifier: None, resource: None, ..known }, &asked, ten),
            "it was paid without one"
        );
    }
}
