//! Start-up, wiring, supervision and shutdown of the keeper.

use std::io::IsTerminal;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::chain::{Side, watch};
use crate::config::Config;
use crate::ctx::{Ctx, Keys, SharedCtx};
use crate::error::{Error, Result};
use crate::store::Store;
use crate::supervise::Group;
use crate::{admission, api, dispatch, finish, ingest, metrics, observe, preflight, publish, relay, settle, tx};

/// Time that shutdown takes at most: first what takes new work, then what commits and sends.
const FRONT_TIME: Duration = Duration::from_secs(12);
const SHUTDOWN_TIME: Duration = Duration::from_secs(25);

/// Runs the keeper until SIGTERM or SIGINT.
///
/// # Errors
/// `preflight_failed` or `bad_configuration` when it must not start, `chain_contradiction` and others when it cannot go
/// on. State is never in danger: everything acknowledged is in the database.
pub async fn run(config: Config) -> Result<()> {
    let metrics = metrics::install()?;
    let listener = listen(&config.api.listen)?;
    let store = Store::open(&config.keeper.database).await?;
    preflight::database(&store, &config.keeper.database).await?;
    let mut ctx = Ctx::new(config, store)?;
    ctx.keys = Keys::load(&ctx.config)?;
    ctx.lock_tail = preflight::chains(&ctx).await?.lock_tail;
    ctx.metrics = Some(metrics);
    admission::load(&ctx).await?;
    let ctx: SharedCtx = Arc::new(ctx);
    let result = serve(&ctx, listener).await;
    ctx.store.close().await;
    result
}

/// Logs to standard error: `RUST_LOG` says how much, `json` in which form.
pub fn log(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    // A second subscriber in one process is a test's own business.
    let _ = if json { builder.json().try_init() } else { builder.try_init() };
}

/// Takes the address before anything else, so that a second keeper beside this one fails at once.
fn listen(address: &str) -> Result<TcpListener> {
    let taken = |error: std::io::Error| Error::Preflight {
        check: "listen",
        message: format!(
            "cannot listen on api.listen = {address} ({error}): choose another address or stop what uses it"
        ),
    };
    let listener = TcpListener::bind(address).map_err(taken)?;
    listener.set_nonblocking(true).map_err(taken)?;
    Ok(listener)
}

/// Starts all loops, waits for a signal or a fault, and stops them in two phases.
async fn serve(ctx: &SharedCtx, listener: TcpListener) -> Result<()> {
    let mut signals = Signals::install()?;
    let address = listener.local_addr()?;
    let mut back = Group::new("back", CancellationToken::new());
    start(&mut back, ctx, "ingest", ingest::run);
    start(&mut back, ctx, "limits", admission::run);
    start(&mut back, ctx, "observe", observe::run);
    for side in [Side::Base, Side::OpenGradient] {
        start(&mut back, ctx, side.watch_loop(), move |ctx, stop| watch::run(ctx, side, stop));
        start(&mut back, ctx, side.txs_loop(), move |ctx, stop| tx::run(ctx, side, stop));
    }
    let mut front = Group::new("front", ctx.stopping.clone());
    let shared = ctx.clone();
    front.spawn("api", move |stop| {
        let (listener, ctx) = (listener.try_clone(), shared.clone());
        async move { api::serve(tokio::net::TcpListener::from_std(listener?)?, ctx, stop).await }
    });
    start(&mut front, ctx, "dispatch", dispatch::run);
    start(&mut front, ctx, "settle", settle::run);
    start(&mut front, ctx, "relay", relay::run);
    start(&mut front, ctx, "finish", finish::run);
    start(&mut front, ctx, "publish", publish::run);
    // The one line on standard output: scripts wait for it.
    println!("listening on http://{address}");
    let fault = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "shutting down");
            None
        }
        fault = front.fault() => Some(fault),
        fault = back.fault() => Some(fault),
    };
    let start = Instant::now();
    let first = front.shut_down(start + FRONT_TIME).await;
    let second = back.shut_down(start + SHUTDOWN_TIME).await;
    tracing::info!(ms = start.elapsed().as_millis(), "stopped");
    fault.or(first).or(second).map_or(Ok(()), Err)
}

/// Starts a loop over the shared state that is watched for signs of life.
fn start<F, Fut>(group: &mut Group, ctx: &SharedCtx, name: &'static str, run: F)
where
    F: Fn(SharedCtx, CancellationToken) -> Fut + Send + Clone + 'static,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    ctx.life.born(name);
    let ctx = ctx.clone();
    group.spawn(name, move |stop| {
        let (ctx, run) = (ctx.clone(), run.clone());
        async move {
            ctx.life.beat(name);
            let ended = run(ctx.clone(), stop.clone()).await;
            if stop.is_cancelled() {
                ctx.life.over(name);
            }
            ended
        }
    });
}

/// What tells the keeper to stop.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn install() -> Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            terminate: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        #[cfg(unix)]
        tokio::select! {
            _ = tokio::signal::ctrl_c() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
        #[cfg(not(unix))]
        {
            let _ = tokio::signal::ctrl_c().await;
            "interrupt"
        }
    }
}
