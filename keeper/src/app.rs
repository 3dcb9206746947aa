//! Start-up, wiring, supervision and shutdown of the keeper.

use std::io::{IsTerminal, Write};
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
use crate::tx::lane::Lane;
use crate::x402::state::Facilitator;
use crate::{
    admission, api, dispatch, disputes, finish, gateway, ingest, metrics, observe, preflight, publish, relay, settle,
    steps, tx, x402,
};

/// Time that a stop takes at most after what was at nodes has come back: the API and what makes new work, then what commits
/// and sends.
const MIDDLE_TIME: Duration = Duration::from_secs(7);
const BACK_TIME: Duration = Duration::from_secs(8);

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
    ctx.x402 = Facilitator::load(&ctx.config)?;
    ctx.lock_tail = preflight::chains(&ctx).await?.lock_tail;
    ctx.metrics = Some(metrics);
    admission::load(&ctx).await?;
    let ctx: SharedCtx = Arc::new(ctx);
    let result = serve(&ctx, listener).await;
    ctx.store.close().await;
    result
}

/// Logs to standard error: `RUST_LOG` says how much, `json` in which form. With `trail`, one line for each step of each order,
/// from its taking to OpenGradient, with the ids that join them.
pub fn log(json: bool, trail: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let trail = if trail { "trail=info" } else { "trail=off" };
    let filter = match trail.parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    };
    let colours = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    // Where the log goes may be full: telling that there would end the process.
    let builder = builder.log_internal_errors(false);
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

/// Starts all loops, waits for a signal or a fault, and stops them: first what takes payments, then what serves and makes
/// new work, then what commits and sends.
async fn serve(ctx: &SharedCtx, listener: TcpListener) -> Result<()> {
    let mut signals = Signals::install()?;
    let address = listener.local_addr()?;
    let mut back = Group::new("back", CancellationToken::new());
    start(&mut back, ctx, "ingest", ingest::run);
    start(&mut back, ctx, "limits", admission::run);
    start(&mut back, ctx, "observe", observe::run);
    start(&mut back, ctx, "steps", steps::run);
    start(&mut back, ctx, "tees", gateway::tees::run);
    for side in [Side::Base, Side::OpenGradient] {
        start(&mut back, ctx, side.watch_loop(), move |ctx, stop| watch::run(ctx, side, stop));
    }
    for lane in Lane::all(ctx) {
        start(&mut back, ctx, lane.beat(ctx), move |ctx, stop| tx::run(ctx, lane, stop));
    }
    let mut middle = Group::new("middle", ctx.closing.clone());
    let shared = ctx.clone();
    middle.spawn("api", move |stop| {
        let (listener, ctx) = (listener.try_clone(), shared.clone());
        async move { api::serve(tokio::net::TcpListener::from_std(listener?)?, ctx, stop).await }
    });
    start(&mut middle, ctx, "settle", settle::run);
    start(&mut middle, ctx, "relay", relay::run);
    start(&mut middle, ctx, "finish", finish::run);
    start(&mut middle, ctx, "publish", publish::run);
    start(&mut middle, ctx, "disputes", disputes::run);
    start(&mut middle, ctx, "join", gateway::join::run);
    for (index, network) in ctx.x402.networks.iter().enumerate() {
        start(&mut back, ctx, network.beat, move |ctx, stop| x402::settle::run(ctx, index, stop));
        start(&mut back, ctx, network.aside_beat, move |ctx, stop| x402::aside::run(ctx, index, stop));
    }
    let mut front = Group::new("front", ctx.stopping.clone());
    start(&mut front, ctx, "dispatch", dispatch::run);
    // The one line on standard output: scripts wait for it.
    let _ = writeln!(std::io::stdout(), "listening on http://{address}");
    let fault = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "stopping: no new payments; a second signal ends it at once");
            None
        }
        fault = front.fault() => Some(fault),
        fault = middle.fault() => Some(fault),
        fault = back.fault() => Some(fault),
    };
    let began = Instant::now();
    let drain = Duration::from_millis(ctx.config.keeper.drain_ms) + Duration::from_secs(1);
    let stopped = async {
        // New payments are refused from here on. Answers that nodes owe come in, and completions are taken.
        let first = front.shut_down(Instant::now() + drain).await;
        tracing::info!("what was at nodes has come back: closing the API");
        let second = middle.shut_down(Instant::now() + MIDDLE_TIME).await;
        // Commits what is queued, writes the limits, gives the roles back.
        first.or(second).or(back.shut_down(Instant::now() + BACK_TIME).await)
    };
    let late = tokio::select! {
        late = stopped => late,
        signal = signals.next() => {
            tracing::warn!(signal, "a second signal: ending at once, nothing acknowledged is lost");
            std::process::exit(1);
        }
    };
    tracing::info!(ms = began.elapsed().as_millis(), "stopped");
    fault.or(late).map_or(Ok(()), Err)
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
