//! What nodes are busy with: which node gets the next request, and never the same request twice within one second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy::primitives::B256;
use tokio::sync::Semaphore;

use crate::config::Dispatch;
use crate::error::{Error, Result};

/// Pairs of node and request that are remembered before old ones are swept.
const SWEEP_AT: usize = 4_096;

/// Seconds that a remembered answer may lie ahead: what lies further ahead was noted before the clock was set back.
const AHEAD: u64 = 2;

/// Shared by the dispatcher and by callers that stream.
#[derive(Debug)]
pub struct Desk {
    /// Requests at nodes at the same time.
    pub permits: Arc<Semaphore>,
    pub http: reqwest::Client,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    load: HashMap<B256, u32>,
    pairs: HashMap<(B256, B256), Pair>,
    turn: usize,
}

#[derive(Clone, Copy, Debug)]
enum Pair {
    Busy,
    /// Last second, unix, that an answer may carry.
    Until(u64),
}

/// Which node gets a request.
#[derive(Debug)]
pub enum Pick<'a, T> {
    /// This one; the ticket goes back when it is dropped.
    Node(&'a T, Ticket),
    /// One could, but not within this second.
    Later,
    Nobody,
}

/// One request at one node.
#[derive(Debug)]
pub struct Ticket {
    node: B256,
    request_hash: B256,
    /// Second of the answer if there was one.
    answered: u64,
    state: Arc<Mutex<State>>,
}

impl Desk {
    /// An empty desk.
    ///
    /// # Errors
    /// `bad_configuration` when the HTTP client cannot be set up.
    pub fn new(config: &Dispatch) -> Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_millis(config.timeout_ms.min(5_000)))
            .timeout(Duration::from_millis(config.timeout_ms))
            // A node answers itself; what it redirects to has no key.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Error::Config(format!("HTTP client: {error}")))?;
        let permits = usize::try_from(config.concurrency).unwrap_or(Semaphore::MAX_PERMITS);
        let permits = Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        Ok(Self { permits, http, state: Arc::default() })
    }

    /// The least loaded of `candidates`, in turn when equal, that may get this request in second `now`.
    pub fn pick<'a, T>(
        &self,
        candidates: &'a [T],
        id: impl Fn(&T) -> B256,
        request_hash: B256,
        now: u64,
    ) -> Pick<'a, T> {
        if candidates.is_empty() {
            return Pick::Nobody;
        }
        let mut state = lock(&self.state);
        if state.pairs.len() >= SWEEP_AT {
            state.pairs.retain(|_, pair| matches!(pair, Pair::Busy) || matches!(pair, Pair::Until(at) if *at >= now));
        }
        state.turn = state.turn.wrapping_add(1);
        let turn = state.turn;
        let free = |candidate: &T| match state.pairs.get(&(id(candidate), request_hash)) {
            None => true,
            Some(Pair::Busy) => false,
            Some(Pair::Until(at)) => now > *at || *at > now.saturating_add(AHEAD),
        };
        let count = candidates.len();
        let best = (0..count)
            .map(|i| &candidates[(turn + i) % count])
            .filter(|candidate| free(candidate))
            .min_by_key(|candidate| state.load.get(&id(candidate)).copied().unwrap_or(0));
        let Some(best) = best else { return Pick::Later };
        let node = id(best);
        state.pairs.insert((node, request_hash), Pair::Busy);
        *state.load.entry(node).or_default() += 1;
        Pick::Node(best, Ticket { node, request_hash, answered: now, state: self.state.clone() })
    }

    /// Requests at a node now.
    pub fn load(&self, node: B256) -> u32 {
        lock(&self.state).load.get(&node).copied().unwrap_or(0)
    }
}

impl Ticket {
    /// Notes the second that the node's answer carries: the same request may follow in a later one.
    pub fn answered(&mut self, timestamp: u64) {
        self.answered = self.answered.max(timestamp);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.pairs.insert((self.node, self.request_hash), Pair::Until(self.answered));
        if let Some(load) = state.load.get_mut(&self.node) {
            *load = load.saturating_sub(1);
        }
    }
}

/// Nothing panics while it holds the lock, and counters are right in every state.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desk() -> Desk {
        Desk::new(&Dispatch::default()).unwrap()
    }

    fn node(pick: Pick<'_, B256>) -> (B256, Ticket) {
        match pick {
            Pick::Node(node, ticket) => (*node, ticket),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn load_is_spread() {
        let desk = desk();
        let nodes = [1, 2, 3].map(B256::repeat_byte);
        let picks: Vec<_> = (0..6_u8).map(|i| node(desk.pick(&nodes, |n| *n, B256::repeat_byte(i), 10))).collect();
        for id in nodes {
            assert_eq!(picks.iter().filter(|(node, _)| *node == id).count(), 2);
            assert_eq!(desk.load(id), 2);
        }
        drop(picks);
        assert_eq!(desk.load(nodes[0]), 0);
    }

    #[test]
    fn the_same_request_never_reaches_a_node_twice_in_a_second() {
        let desk = desk();
        let (a, hash) = ([B256::repeat_byte(1)], B256::repeat_byte(9));
        let (_, mut ticket) = node(desk.pick(&a, |n| *n, hash, 10));
        assert!(matches!(desk.pick(&a, |n| *n, hash, 11), Pick::Later), "still running");
        node(desk.pick(&a, |n| *n, B256::ZERO, 10));
        ticket.answered(12);
        drop(ticket);
        assert!(matches!(desk.pick(&a, |n| *n, hash, 12), Pick::Later), "the same second");
        node(desk.pick(&a, |n| *n, hash, 13));
        assert!(matches!(desk.pick(&a, |n| *n, hash, 11), Pick::Later), "a moment ago");
        node(desk.pick(&a, |n| *n, hash, 5));
        assert!(matches!(desk.pick(&[], |n: &B256| *n, hash, 13), Pick::Nobody));
    }
}
