//! Looks up what completions refer to, for all callers that wait at the same moment in one go.

use std::sync::{Mutex, PoisonError};

use alloy::primitives::B256;
use tokio::sync::{Semaphore, oneshot};

use crate::error::{Code, Refusal};
use crate::store::Store;
use crate::store::intake::{self, Known};
use crate::types::OrderRow;

/// Look-ups in the database at the same time.
const TURNS: usize = 2;

/// The order that a completion names, and what is known of its settlement id.
pub type Answer = (Option<OrderRow>, Option<Known>);

#[derive(Debug)]
struct Waiting {
    order_id: Option<B256>,
    settlement_id: B256,
    reply: oneshot::Sender<Result<Answer, Refusal>>,
}

/// Whoever comes first asks for everybody who has come meanwhile.
#[derive(Debug)]
pub struct Lookup {
    waiting: Mutex<Vec<Waiting>>,
    turns: Semaphore,
}

impl Default for Lookup {
    fn default() -> Self {
        Self { waiting: Mutex::default(), turns: Semaphore::new(TURNS) }
    }
}

impl Lookup {
    /// Looks up one order, without signature, request and reason, and one settlement id.
    ///
    /// # Errors
    /// `internal` when the database fails.
    pub async fn find(&self, store: &Store, order_id: Option<B256>, settlement_id: B256) -> Result<Answer, Refusal> {
        loop {
            let (reply, mut answer) = oneshot::channel();
            self.lock().push(Waiting { order_id, settlement_id, reply });
            tokio::select! {
                biased;
                // An error: whoever asked for us went away before it had the answer.
                done = &mut answer => match done {
                    Ok(found) => return found,
                    Err(_) => continue,
                },
                turn = self.turns.acquire() => {
                    let waiting = std::mem::take(&mut *self.lock());
                    ask(store, waiting).await;
                    drop(turn);
                }
            }
            if let Ok(found) = answer.await {
                return found;
            }
        }
    }

    /// Nothing panics while it holds the lock.
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(store: &Store, waiting: Vec<Waiting>) {
    let wanted: Vec<(Option<B256>, B256)> = waiting.iter().map(|one| (one.order_id, one.settlement_id)).collect();
    match intake::find(store, &wanted).await {
        Ok(found) => {
            for Waiting { order_id, settlement_id, reply } in waiting {
                // Two callers may name the same order.
                let order = order_id.and_then(|id| found.orders.get(&id).cloned());
                drop(reply.send(Ok((order, found.known.get(&settlement_id).copied()))));
            }
        }
        Err(error) => {
            tracing::error!(code = error.code(), %error, completions = waiting.len(), "look-up failed");
            for one in waiting {
                let text = "the database failed and nothing was stored: try again";
                drop(one.reply.send(Err(Refusal::new(Code::Internal, text))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn everybody_gets_an_answer_even_when_the_one_who_asks_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        let lookup = Arc::new(Lookup::default());
        let mut tasks = Vec::new();
        for n in 0..200_u8 {
            let (lookup, store) = (Arc::clone(&lookup), store.clone());
            let id = B256::repeat_byte(n);
            tasks.push(tokio::spawn(async move { lookup.find(&store, Some(id), id).await }));
        }
        tokio::task::yield_now().await;
        for task in tasks.iter().step_by(3) {
            task.abort();
        }
        for (n, task) in tasks.into_iter().enumerate() {
            match task.await {
                Ok(found) => assert!(matches!(found, Ok((None, None)))),
                Err(error) => assert!(error.is_cancelled() && n % 3 == 0),
            }
        }
    }
}
