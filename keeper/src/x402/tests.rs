//! Payments that stock clients signed, and each single mutation of them: ids, verdicts and reasons without a chain.

use alloy::primitives::{Address, B256};
use serde_json::{Value, json};

use super::permit2::Charge;
use super::plan::Checked;
use super::reasons::{Fault, Reason};
use super::wire::Request;
use super::{exact, permit2};

/// While all vectors are good.
const NOW: u64 = 1_795_300_000;

struct Vectors(Value);

impl Vectors {
    fn read() -> Self {
        Self(serde_json::from_str(include_str!("../../tests/vectors/x402.json")).unwrap())
    }

    fn forwarder(&self) -> Address {
        self.0["facilitatorAddress"].as_str().unwrap().parse().unwrap()
    }

    /// Vectors of a name, one for each producer.
    fn named(&self, name: &str) -> Vec<&Value> {
        let found: Vec<_> =
            self.0["vectors"].as_array().unwrap().iter().filter(|vector| vector["name"] == name).collect();
        assert!(found.len() >= 2, "{name}: one of each producer");
        found
    }

    fn check(&self, request: &Value, charge: Charge, now: Option<u64>) -> Result<Checked, Fault> {
        let request = Request::parse(request.to_string().as_bytes()).1?;
        if request.payload.get("permit2Authorization").is_some() {
            permit2::check(&request, charge, self.forwarder(), now)
        } else {
            exact::check(&request, now)
        }
    }

    /// The reason of a request, wherever it comes out; `None` for a good one.
    fn reason(&self, request: &Value) -> Option<Reason> {
        match self.check(request, Charge::All, Some(NOW)) {
            Err(fault) => Some(fault.reason),
            Ok((plan, _)) if !plan.by_key && plan.method == super::plan::Method::Eip3009 => {
                Some(Reason::ExactSignature)
            }
            Ok((plan, _)) if !plan.by_key => Some(Reason::Permit2Signature),
            Ok((_, late)) => late.map(|fault| fault.reason),
        }
    }
}

#[test]
fn ids_are_the_digests_that_clients_signed() {
    let vectors = Vectors::read();
    for name in ["exact", "exact-permit2", "upto", "exact-v1"] {
        for vector in vectors.named(name) {
            let (plan, late) = vectors.check(&vector["request"], Charge::All, Some(NOW)).unwrap();
            let digest: B256 = vector["signed"][0]["digest"].as_str().unwrap().parse().unwrap();
            assert_eq!((plan.payment_id, late), (digest, None), "{name} of {}", vector["producer"]);
            assert!(plan.by_key, "{name} of {}", vector["producer"]);
            assert_eq!(plan.payer.to_string(), vector["payer"].as_str().unwrap());
        }
    }
}

/// A member that is changed, what to, and the reason that comes of it.
type Mutation = (&'static str, Value, Reason);

/// Each mutation by itself, on the vectors of every producer.
fn mutate(name: &str, mutations: &[Mutation]) {
    let vectors = Vectors::read();
    for vector in vectors.named(name) {
        assert_eq!(vectors.reason(&vector["request"]), None);
        for (pointer, value, reason) in mutations {
            let mut request = vector["request"].clone();
            // What the server asks and what the payer accepted change together, unless one is named.
            let pointers = match pointer.strip_prefix("both:") {
                Some(rest) => vec![format!("/paymentRequirements{rest}"), format!("/paymentPayload/accepted{rest}")],
                None => vec![(*pointer).to_owned()],
            };
            for pointer in pointers {
                *request.pointer_mut(&pointer).unwrap_or_else(|| panic!("{name} has no {pointer}")) = value.clone();
            }
            assert_eq!(vectors.reason(&request), Some(*reason), "{name}: {pointer} = {value}");
        }
    }
}

const A: &str = "/paymentPayload/payload/authorization";

fn other() -> Value {
    json!("0x1111111111111111111111111111111111111111")
}

#[test]
fn single_mutations_of_exact() {
    let member = |name: &str| -> &'static str { Box::leak(format!("{A}/{name}").into_boxed_str()) };
    mutate(
        "exact",
        &[
            ("/paymentPayload/accepted/scheme", json!("upto"), Reason::ExactScheme),
            ("/paymentPayload/accepted/network", json!("eip155:84532"), Reason::ExactNetworkMismatch),
            ("/paymentPayload/accepted/payTo", other(), Reason::InvalidRequirements),
            ("/paymentPayload/accepted/asset", other(), Reason::InvalidRequirements),
            ("/paymentPayload/accepted/amount", json!("1"), Reason::InvalidRequirements),
            ("both:/extra/name", json!("USDC"), Reason::ExactSignature),
            ("both:/extra/version", json!("1"), Reason::ExactSignature),
            ("both:/extra/name", json!(null), Reason::ExactMissingDomain),
            ("both:/extra/version", json!(""), Reason::ExactMissingDomain),
            ("both:/asset", other(), Reason::ExactSignature),
            ("both:/payTo", other(), Reason::ExactRecipientMismatch),
            ("both:/amount", json!("10001"), Reason::ExactValueMismatch),
            ("both:/amount", json!("9999"), Reason::ExactValueMismatch),
            ("both:/network", json!("eip155:84532"), Reason::ExactSignature),
            (member("from"), other(), Reason::ExactSignature),
            (member("to"), other(), Reason::ExactSignature),
            (member("value"), json!("10001"), Reason::ExactSignature),
            (member("validAfter"), json!("1"), Reason::ExactSignature),
            (member("validBefore"), json!("3695274000"), Reason::ExactSignature),
            (member("nonce"), json!(B256::ZERO), Reason::ExactSignature),
            ("/paymentPayload/payload/signature", json!("0x"), Reason::ExactSignature),
            ("/paymentPayload/payload/signature", json!(format!("0x{}", "11".repeat(65))), Reason::ExactSignature),
            (member("value"), json!(10000), Reason::InvalidPayload),
            (member("nonce"), json!("0x12"), Reason::InvalidPayload),
            (member("validBefore"), json!("9".repeat(80)), Reason::InvalidPayload),
            ("/paymentPayload/payload/signature", json!("hello"), Reason::InvalidPayload),
            ("/paymentPayload/payload/authorization", json!(null), Reason::InvalidPayload),
        ],
    );
    mutate(
        "exact-v1",
        &[
            ("/paymentRequirements/maxAmountRequired", json!("1"), Reason::ExactValueMismatchV1),
            ("/paymentRequirements/payTo", other(), Reason::ExactRecipientMismatch),
            ("/paymentRequirements/network", json!("base-sepolia"), Reason::ExactNetworkMismatch),
            ("/paymentPayload/scheme", json!("upto"), Reason::ExactScheme),
        ],
    );
}

const P: &str = "/paymentPayload/payload/permit2Authorization";

#[test]
fn single_mutations_of_permit2() {
    let member = |name: &str| -> &'static str { Box::leak(format!("{P}/{name}").into_boxed_str()) };
    let common = [
        ("both:/payTo", other(), Reason::Permit2Recipient),
        ("both:/asset", other(), Reason::Permit2Token),
        ("both:/amount", json!("1"), Reason::Permit2Amount),
        ("/paymentPayload/accepted/asset", other(), Reason::InvalidRequirements),
        (member("spender"), other(), Reason::Permit2Spender),
        (member("witness/to"), other(), Reason::Permit2Recipient),
        (member("witness/validAfter"), json!("1"), Reason::Permit2Signature),
        (member("witness/validAfter"), json!("3695274000"), Reason::Permit2NotYetValid),
        (member("deadline"), json!("1"), Reason::Permit2Expired),
        (member("deadline"), json!("3695274000"), Reason::Permit2Signature),
        (member("nonce"), json!("7"), Reason::Permit2Signature),
        (member("from"), other(), Reason::Permit2Signature),
        (member("permitted/amount"), json!("1"), Reason::Permit2Amount),
        (member("permitted/token"), other(), Reason::Permit2Token),
        (member("permitted"), json!("x"), Reason::InvalidPayload),
        ("/paymentPayload/payload/signature", json!("0x00"), Reason::Permit2Signature),
    ];
    mutate("exact-permit2", &common);
    mutate("upto", &common);
    mutate(
        "exact-permit2",
        &[
            ("/paymentPayload/accepted/scheme", json!("other"), Reason::UnsupportedPayloadType),
            ("/paymentPayload/accepted/network", json!("eip155:1"), Reason::ExactNetworkMismatch),
        ],
    );
    mutate(
        "upto",
        &[
            ("/paymentPayload/accepted/scheme", json!("exact"), Reason::UptoScheme),
            ("/paymentPayload/accepted/network", json!("eip155:1"), Reason::UptoNetworkMismatch),
            (member("witness/facilitator"), other(), Reason::UptoFacilitatorMismatch),
        ],
    );
}

#[test]
fn the_clock_counts_for_new_payments_only() {
    let vectors = Vectors::read();
    for (name, ends, early) in [("exact", 3_695_274_570_u64, None), ("exact-v1", 3_695_274_570, Some(1_795_273_000))] {
        for vector in vectors.named(name) {
            let at = |now| vectors.check(&vector["request"], Charge::All, now).unwrap().1.map(|fault| fault.reason);
            assert_eq!(at(Some(ends - 6)), None);
            assert_eq!(at(Some(ends)), Some(Reason::ExactValidBefore));
            assert_eq!(at(None), None, "what was settled in time stays settled");
            assert_eq!(early.and_then(|early| at(Some(early))), early.map(|_| Reason::ExactValidAfter));
        }
    }
    for vector in vectors.named("upto") {
        let late = vectors.check(&vector["request"], Charge::All, Some(3_695_274_566)).unwrap_err();
        assert_eq!(late.reason, Reason::Permit2Expired);
        assert!(vectors.check(&vector["request"], Charge::All, None).is_ok());
    }
}

#[test]
fn upto_settles_at_most_what_is_permitted() {
    let vectors = Vectors::read();
    for vector in vectors.named("upto") {
        let settle = |amount: &str| {
            let mut request = vector["request"].clone();
            request["paymentRequirements"]["amount"] = json!(amount);
            vectors.check(&request, Charge::Asked, Some(NOW))
        };
        let (plan, _) = settle("1234").unwrap();
        assert_eq!((plan.amount.to_string(), plan.max_amount.to_string()), ("1234".to_owned(), "50000".to_owned()));
        let (all, _) = settle("50000").unwrap();
        assert_eq!(all.payment_id, plan.payment_id, "one signature, one payment");
        assert_ne!(all.calldata, plan.calldata);
        assert_eq!(settle("0").unwrap().0.calldata, all.calldata);
        assert_eq!(settle("50001").unwrap_err().reason, Reason::UptoExceedsAmount);
    }
}
