//! Supervision of named loops: an error means another start after a pause, a contradiction or a panic the end.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// First and longest pause before a loop is started again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// After so long without an error the next pause is the first again.
const HEALTHY: Duration = Duration::from_secs(60);

/// Loops that live and stop together.
#[derive(Debug)]
pub struct Group {
    name: &'static str,
    stop: CancellationToken,
    tasks: JoinSet<Result<()>>,
}

impl Group {
    /// A group without loops. `stop` tells its loops to end.
    pub fn new(name: &'static str, stop: CancellationToken) -> Self {
        Self { name, stop, tasks: JoinSet::new() }
    }

    /// Starts a loop; `make` starts it anew after an error.
    pub fn spawn<F, Fut>(&mut self, name: &'static str, make: F)
    where
        F: Fn(CancellationToken) -> Fut + Send + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        let stop = self.stop.clone();
        self.tasks.spawn(keep_running(name, stop, make));
    }

    /// Waits until a loop ends that should not: the fault that stops the keeper. Pends while all is well, or when there
    /// is no loop.
    pub async fn fault(&mut self) -> Error {
        loop {
            match self.tasks.join_next().await {
                Some(ended) => {
                    if let Some(error) = fault_of(self.name, ended) {
                        return error;
                    }
                }
                None => std::future::pending::<()>().await,
            }
        }
    }

    /// Tells the loops to end and waits until `deadline`; what still runs then is aborted. The first fault on the way is
    /// returned.
    pub async fn shut_down(mut self, deadline: Instant) -> Option<Error> {
        self.stop.cancel();
        let mut first = None;
        let name = self.name;
        let drained = tokio::time::timeout_at(deadline, async {
            while let Some(ended) = self.tasks.join_next().await {
                first = first.take().or_else(|| fault_of(name, ended));
            }
        });
        if drained.await.is_err() {
            tracing::warn!(group = name, loops = self.tasks.len(), "loops did not end in time and are cut off");
            self.tasks.abort_all();
        }
        first
    }
}

fn fault_of(group: &'static str, ended: std::result::Result<Result<()>, tokio::task::JoinError>) -> Option<Error> {
    match ended {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error),
        Err(error) if error.is_cancelled() => None,
        Err(error) => Some(Error::Io(std::io::Error::other(format!("a {group} loop panicked: {error}")))),
    }
}

/// Whether another start cannot help.
const fn is_fault(error: &Error) -> bool {
    matches!(error, Error::Chain { .. } | Error::Config(_) | Error::Preflight { .. })
}

async fn keep_running<F, Fut>(name: &'static str, stop: CancellationToken, make: F) -> Result<()>
where
    F: Fn(CancellationToken) -> Fut + Send + 'static,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    let up = ::metrics::gauge!("quittance_loop_up", "loop" => name);
    let restarts = ::metrics::counter!("quittance_loop_restarts_total", "loop" => name);
    restarts.absolute(0);
    let mut pause = FIRST_PAUSE;
    while !stop.is_cancelled() {
        up.set(1.0);
        let started = Instant::now();
        let ended = make(stop.clone()).await;
        up.set(0.0);
        match ended {
            Ok(()) if stop.is_cancelled() => break,
            Ok(()) => tracing::error!(name, "loop ended by itself"),
            Err(error) if is_fault(&error) => {
                tracing::error!(name, code = error.code(), %error, "loop cannot go on");
                return Err(error);
            }
            Err(error) => tracing::warn!(name, code = error.code(), %error, "loop failed"),
        }
        pause = if started.elapsed() >= HEALTHY { FIRST_PAUSE } else { pause };
        restarts.increment(1);
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LAST_PAUSE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn rpc() -> Error {
        Error::Rpc { chain_id: 1, message: "down".to_owned() }
    }

    #[tokio::test]
    async fn an_error_starts_the_loop_again_with_growing_pauses() {
        let starts = Arc::new(AtomicU32::new(0));
        let mut group = Group::new("test", CancellationToken::new());
        let count = Arc::clone(&starts);
        group.spawn("failing", move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            async { Err(rpc()) }
        });
        tokio::time::sleep(Duration::from_millis(650)).await;
        let starts = starts.load(Ordering::SeqCst);
        assert!((2..=3).contains(&starts), "at 0, 100 and 300 ms, not {starts}");
        assert!(group.shut_down(Instant::now() + Duration::from_secs(1)).await.is_none());
    }

    #[tokio::test]
    async fn contradictions_and_panics_are_faults() {
        let mut group = Group::new("test", CancellationToken::new());
        group.spawn("contradicted", |_| async { Err(Error::Chain { chain_id: 1, message: "reorg".to_owned() }) });
        assert_eq!(group.fault().await.code(), "chain_contradiction");
        group.spawn("broken", |_| async { panic!("broken") });
        assert_eq!(group.fault().await.code(), "io_failed");
    }

    #[tokio::test]
    async fn what_does_not_stop_is_cut_off() {
        let mut group = Group::new("test", CancellationToken::new());
        group.spawn("deaf", |_| std::future::pending());
        group.spawn("good", |stop: CancellationToken| async move {
            stop.cancelled().await;
            Ok(())
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        let start = Instant::now();
        assert!(group.shut_down(start + Duration::from_millis(200)).await.is_none());
        assert!(start.elapsed() >= Duration::from_millis(200) && start.elapsed() < Duration::from_secs(5));
    }
}
