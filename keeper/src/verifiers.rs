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
            // Where this is not allowed, they only do not give way.
            .start_handler(|_| {
                let _ = rustix::process::nice(NICE);
            })
            // The caller is told.
            .panic_handler(drop)
            .build()
            .map(Self)
            .map_err(|error| Error::Config(format!("no threads to verify with: {error}")))
    }

    /// Does `work` when those that came before are taken up; `None` when it broke off.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (reply, done) = oneshot::channel();
        self.0.spawn_fifo(move || drop(reply.send(work())));
        done.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_breaks_off_takes_no_other_with_it() {
        let verifiers = Verifiers::new().unwrap();
        for n in 0..100 {
            let done = verifiers.run(move || if n % 10 == 0 { panic!("broken") } else { n }).await;
            assert_eq!(done, (n % 10 != 0).then_some(n));
        }
    }
}
