//! Several read-only questions in one JSON-RPC batch: one round trip, and answers of one endpoint.

use alloy::eips::eip1898::BlockId;
use alloy::primitives::{Address, Bytes, U256};
use alloy::providers::Provider;
use alloy::rpc::client::BatchRequest;
use alloy::rpc::types::TransactionRequest;
use alloy::transports::TransportResult;
use serde_json::{Value, json};

use super::rpc::Rpc;
use crate::tx::classify::{Class, Failure, class_of};

/// One question.
#[derive(Clone, Debug)]
pub struct Ask {
    method: &'static str,
    params: Value,
}

impl Ask {
    /// Code of an account at the latest block.
    pub fn code(account: Address) -> Self {
        Self { method: "eth_getCode", params: json!([account, "latest"]) }
    }

    /// What a call would return now. `gas`: limit of the call, the endpoint's own when `None`.
    pub fn call(from: Address, to: Address, data: Bytes, gas: Option<u64>) -> Self {
        let mut request = TransactionRequest::default().from(from).to(to).input(data.into());
        request.gas = gas;
        Self { method: "eth_call", params: json!([request, BlockId::latest()]) }
    }

    /// What a call would have returned at a block.
    pub fn call_at(from: Address, to: Address, data: Bytes, block: BlockId) -> Self {
        let request = TransactionRequest::default().from(from).to(to).input(data.into());
        Self { method: "eth_call", params: json!([request, block]) }
    }

    /// Wei of an account at the latest block.
    pub fn balance(account: Address) -> Self {
        Self { method: "eth_getBalance", params: json!([account, "latest"]) }
    }

    /// Transactions of an account up to the latest block.
    pub fn nonce(account: Address) -> Self {
        Self { method: "eth_getTransactionCount", params: json!([account, "latest"]) }
    }

    /// What a unit of gas costs now.
    pub fn gas_price() -> Self {
        Self { method: "eth_gasPrice", params: json!([]) }
    }
}

/// Answer to one question: bytes, or what the call reverted with.
pub type Answer = Result<Bytes, Failure>;

impl Rpc {
    /// Asks everything at once. Answers are in the order of the questions; numbers come as their bytes.
    ///
    /// # Errors
    /// `Failure` when no endpoint answers all of it; a call that reverts is an answer.
    pub async fn batch(&self, asks: &[Ask]) -> Result<Vec<Answer>, Failure> {
        let chain_id = self.chain_id();
        let answers: Vec<TransportResult<Value>> = self
            .ask("batch", |provider| async move {
                let mut batch = BatchRequest::new(provider.client());
                let mut waiters = Vec::with_capacity(asks.len());
                for ask in asks {
                    waiters.push(batch.add_call::<_, Value>(ask.method, &ask.params)?);
                }
                batch.send().await?;
                let mut answers = Vec::with_capacity(waiters.len());
                for waiter in waiters {
                    match waiter.await {
                        Err(error) if !class_of(&error).is_deterministic() => return Err(error),
                        answer => answers.push(answer),
                    }
                }
                Ok(answers)
            })
            .await?;
        let failure = |what, class, message| Failure { chain_id, what, class, message };
        Ok(asks
            .iter()
            .zip(answers)
            .map(|(ask, answer)| match answer {
                Ok(Value::String(text)) => quantity(&text).ok_or_else(|| {
                    failure(ask.method, Class::Unknown, format!("{} answered no hexadecimal", ask.method))
                }),
                Ok(other) => Err(failure(ask.method, Class::Unknown, format!("{} answered {other}", ask.method))),
                Err(error) => Err(failure(ask.method, class_of(&error), error.to_string().chars().take(300).collect())),
            })
            .collect())
    }
}

/// Bytes of a hexadecimal text; a number without its leading zero has one more.
fn quantity(text: &str) -> Option<Bytes> {
    let digits = text.strip_prefix("0x")?;
    let even = if digits.len() % 2 == 1 { format!("0{digits}") } else { digits.to_owned() };
    hex::decode(even).ok().map(Bytes::from)
}

/// Bytes as a number: a quantity, or one word of an ABI encoding. `None` when they are none.
pub fn number(bytes: &[u8]) -> Option<U256> {
    (!bytes.is_empty() && bytes.len() <= 32).then(|| U256::from_be_slice(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        assert_eq!(quantity("0x"), Some(Bytes::new()));
        assert_eq!(quantity("0x7"), Some(Bytes::from_static(&[7])));
        assert_eq!(number(&quantity("0x102").unwrap()), Some(U256::from(258)));
        assert_eq!(quantity("7").or(quantity("0xz")), None);
        assert_eq!(number(&[]).or(number(&[0; 33])), None);
    }
}
