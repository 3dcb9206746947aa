//! Extension `offer-receipt`: the facilitator's signature under who paid for what, in the answer to a payment that asks for it.
//! Offers are signed by the server, whose terms they are; a server that signs receipts too puts its own in place of this one.
//! Source: specs/extensions/extension-offer-and-receipt.md of x402, "Signed Receipt" and "EIP-712 Domain".

use alloy::primitives::B256;
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol;
use alloy::sol_types::{SolStruct, eip712_domain};
use serde_json::{Value, json};

use crate::store::payments::Payment;
use crate::types::PaymentState;
use crate::x402::networks;
use crate::x402::wire::Request;

/// Name of the extension.
pub const NAME: &str = "offer-receipt";

sol! {
    /// What is signed. Texts on purpose: it is of every kind of chain.
    #[derive(Debug)]
    struct Receipt {
        uint256 version;
        string network;
        string resourceUrl;
        string payer;
        uint256 issuedAt;
        string transaction;
    }
}

impl Receipt {
    /// The receipt of a settled payment, issued when it was settled, so that it is the same however often it is asked for.
    /// `None` when it names no payer or resource. Without `with_transaction` it does not tell where the money moved: that is
    /// how the extension protects payers who show it around.
    pub fn of(payment: &Payment, with_transaction: bool) -> Option<Self> {
        let settled_ms = payment.settled_ms.filter(|_| payment.state == PaymentState::Settled)?;
        let hash = payment.tx_hash.filter(|_| with_transaction).map(|hash| hash.to_string());
        Some(Self {
            version: alloy::primitives::U256::ONE,
            network: networks::name(payment.new.chain_id),
            resourceUrl: payment.new.resource.clone()?,
            payer: payment.new.payer?.to_string(),
            issuedAt: u64::try_from(settled_ms / 1_000).ok().map(alloy::primitives::U256::from)?,
            transaction: hash.unwrap_or_default(),
        })
    }

    /// EIP-712 digest; the domain names no chain of payments.
    pub fn digest(&self) -> B256 {
        self.eip712_signing_hash(&eip712_domain! { name: "x402 receipt", version: "1", chain_id: 1, })
    }

    fn payload(&self) -> Value {
        json!({ "version": 1, "network": self.network, "resourceUrl": self.resourceUrl, "payer": self.payer,
            "issuedAt": self.issuedAt.to::<u64>(), "transaction": self.transaction })
    }
}

/// What goes into the answer's `extensions`; `None` when the payment does not ask for it or there is nothing to sign.
pub fn answer(signer: Option<&PrivateKeySigner>, request: &Request, payment: &Payment) -> Option<Value> {
    let asked = request.extension(NAME)?;
    let receipt = Receipt::of(payment, asked.get("includeTxHash") == Some(&Value::Bool(true)))?;
    let signature = match signer?.sign_hash_sync(&receipt.digest()) {
        Ok(signature) => format!("0x{}", hex::encode(signature.as_bytes())),
        Err(error) => {
            tracing::error!(%error, "the receipt key cannot sign");
            return None;
        }
    };
    Some(json!({ "info": { "receipt": { "format": "eip712", "payload": receipt.payload(), "signature": signature } } }))
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, keccak256};

    use super::*;
    use crate::store::payments::{NewPayment, fixtures};

    fn settled(resource: Option<&str>) -> Payment {
        fixtures::settled(NewPayment { resource: resource.map(str::to_owned), ..fixtures::payment(1) })
    }

    fn asking(extension: &Value) -> Request {
        let asked = json!({ "scheme": "exact", "network": "eip155:8453", "amount": "10", "asset": Address::repeat_byte(3),
            "payTo": Address::repeat_byte(2) });
        let body = json!({ "x402Version": 2, "paymentRequirements": asked, "paymentPayload": { "x402Version": 2,
            "accepted": asked, "payload": {}, "extensions": { NAME: extension } } });
        Request::parse(body.to_string().as_bytes()).1.unwrap()
    }

    /// Receipts that the stock library signed: the same key must come to the same signature.
    #[test]
    fn signs_as_the_stock_library_does() {
        let file: Value = serde_json::from_str(include_str!("../../../tests/vectors/x402_receipts.json")).unwrap();
        let key = keccak256("quittance clients key, public on purpose: vectors: facilitator");
        let signer = PrivateKeySigner::from_bytes(&key).unwrap();
        let vectors = file["receipts"].as_array().unwrap();
        assert!(vectors.len() >= 2);
        for vector in vectors {
            let payload = &vector["payload"];
            let text = |name: &str| payload[name].as_str().unwrap().to_owned();
            let receipt = Receipt {
                version: alloy::primitives::U256::ONE,
                network: text("network"),
                resourceUrl: text("resourceUrl"),
                payer: text("payer"),
                issuedAt: alloy::primitives::U256::from(payload["issuedAt"].as_u64().unwrap()),
                transaction: text("transaction"),
            };
            assert_eq!(&receipt.payload(), payload);
            let signature = format!("0x{}", hex::encode(signer.sign_hash_sync(&receipt.digest()).unwrap().as_bytes()));
            assert_eq!(vector["signature"], json!(signature));
            assert_eq!(vector["signer"], json!(signer.address().to_string()));
        }
    }

    #[test]
    fn only_for_those_who_ask_and_the_same_each_time() {
        let signer = PrivateKeySigner::from_bytes(&B256::repeat_byte(5)).unwrap();
        let (plain, with) = (asking(&json!({})), asking(&json!({ "includeTxHash": true })));
        let mut silent = plain.clone();
        silent.extensions.clear();
        let payment = settled(Some("https://a/b"));
        assert_eq!(answer(Some(&signer), &silent, &payment), None);
        assert_eq!(answer(None, &plain, &payment), None);
        assert_eq!(answer(Some(&signer), &plain, &settled(None)), None, "a receipt for nothing says nothing");
        let failed = Payment { state: PaymentState::Failed, ..payment.clone() };
        assert_eq!(answer(Some(&signer), &plain, &failed), None);
        let receipt = answer(Some(&signer), &with, &payment).unwrap()["info"]["receipt"].clone();
        assert_eq!(receipt["format"], json!("eip712"));
        assert_eq!(
            receipt["payload"],
            json!({ "version": 1, "network": "eip155:8453", "resourceUrl": "https://a/b",
                "payer": Address::repeat_byte(1).to_string(), "issuedAt": 1_795_300_000,
                "transaction": B256::repeat_byte(7) })
        );
        assert_eq!(answer(Some(&signer), &with, &payment).unwrap()["info"]["receipt"], receipt);
        let private = answer(Some(&signer), &plain, &payment).unwrap();
        assert_eq!(private.pointer("/info/receipt/payload/transaction"), Some(&json!("")));
    }
}
