//! Threads that verify completions which come in numbers, one for each core.

use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// How much they give way. A commit is many short steps, and thousands wait for each: behind a verification that takes
/// milliseconds, every step of it would wait for a core.
const NICE: i32 = 5;

/// The threads.
#[derive(Debug)]
pub struct Verifiers(ThreadPool);

impl Verifiers {
    /// Starts them.
    ///
    /// # Errors
    /// `bad_configuration` when the system gives no threads.
    pub fn new() -> Result<Self> {
        ThreadPoolBuilder::new()
            .num_threads(std::thread::available_parallelism().map_or(1, usize::from))
            .thread_name(|n| format!("verify-{n}"))
            .start_handler(|_| {
                // Of the whole process elsewhere. Where it is not allowed, they only do not give way.
                if cfg!(target_os = "linux") {
                    let _ = rustix::process::nice(NICE);
                }
            })
            // The caller is told.
            .panic_handler(drop)
            .build()
            .map(Self)
            .map_err(|error| Error::Config(format!("no threads to verify with: {error}")))
    }

    /// Does `work` when those that came before are taken up; `None` when it broke off. Whoever goes away before its turn has
    /// nothing done.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (reply, done) = oneshot::channel();
        self.0.spawn_fifo(move || {
            if !reply.is_closed() {
                drop(reply.send(work()));
            }
        });
        done.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::SeqCst;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn one_that_breaks_off_takes_no_other_with_it() {
        let verifiers = Verifiers::new().unwrap();
        for n in 0..100 {
            let done = verifiers.run(move || if n % 10 == 0 { panic!("broken") } else { n }).await;
            assert_eq!(done, (n % 10 != 0).then_some(n));
        }
    }

    #[tokio::test]
    async fn nothing_is_done_for_those_who_went_away() {
        let verifiers = Arc::new(Verifiers::new().unwrap());
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let threads = std::thread::available_parallelism().unwrap().get();
        let started = Arc::new(AtomicUsize::new(0));
        let mut held = Vec::new();
        for _ in 0..threads {
            let (verifiers, gate, started) = (Arc::clone(&verifiers), Arc::clone(&gate), Arc::clone(&started));
            let wait = move || {
                started.fetch_add(1, SeqCst);
                gate.lock().unwrap().recv().unwrap();
            };
            held.push(tokio::spawn(async move { verifiers.run(wait).await }));
        }
        while started.load(SeqCst) < threads {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let done = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&done);
        let gone = tokio::time::timeout(Duration::from_millis(1), verifiers.run(move || count.fetch_add(1, SeqCst)));
        assert!(gone.await.is_err());
        (0..threads).for_each(|_| go.send(()).unwrap());
        for one in held {
            assert_eq!(one.await.unwrap(), Some(()));
        }
        assert_eq!(verifiers.run(|| 7).await, Some(7));
        assert_eq!(done.load(SeqCst), 0);
    }
}
