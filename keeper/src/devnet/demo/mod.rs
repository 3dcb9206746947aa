//! The demonstration: eleven things that must hold, shown with real chains, processes, signatures and money of no worth.

pub mod chain;
pub mod checks;
pub mod dispute;
pub mod exit;
pub mod finish;
pub mod gateway;
mod kill;
pub mod rogue;
pub mod stage;
pub mod steps;
pub mod stock;
pub mod story;
pub mod wallets;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::devnet::Devnet;
use crate::error::Result;
use stage::Stage;
use story::Report;

/// Orders over HTTP unless told otherwise.
pub const INFERENCES: usize = 24;

/// Says what happens now; the demo is watched.
fn say(started: Instant, text: &str) {
    let _ = writeln!(std::io::stderr(), "[{:>5.1} s] {text}", started.elapsed().as_secs_f64());
}

/// Programs that play others' software.
#[derive(Clone, Copy, Debug)]
pub struct Players<'a> {
    /// Stock x402 clients; without it that step is left out.
    pub clients: Option<&'a Path>,
    /// OpenGradient's gateway middleware; without it what it sends is sent from here.
    pub gateway: Option<&'a Path>,
}

/// Plays all steps on a running devnet and checks what came of them. The stage is left running.
///
/// # Errors
/// The first thing that did not happen at all; what happened wrongly is a failed check of the report.
pub async fn play(
    devnet: Devnet,
    program: PathBuf,
    inferences: usize,
    players: Players<'_>,
    started: Instant,
) -> Result<(Stage, Report)> {
    let wallets = inferences.div_ceil(12).clamp(4, 12);
    say(started, &format!("chains and contracts are up; starting the keeper, funding {wallets} wallets"));
    let mut stage = Stage::set(devnet, program, wallets).await?;
    let batch = stage.story.rogue.batch_id;
    let operator = dispute::defend(&stage)?;
    let paying = players.clients.map(|clients| stock::start(&stage, clients)).transpose()?;
    let gateway = gateway::start(&stage, players.gateway)?;
    say(
        started,
        &format!("8. meanwhile another keeper has settled batch {batch}; one of its rows nobody ever answered"),
    );
    say(started, "1. a protocol's contract orders an inference on-chain");
    steps::protocol_orders(&mut stage).await?;
    say(started, "4. an order names a node that is no more: nobody will answer");
    steps::open_unanswered(&mut stage).await?;
    exit::commit(&mut stage).await?;
    say(started, &format!("2. wallets hand in {inferences} signed orders over HTTP, {} at once", stage::CONCURRENCY));
    stage.hand_in(inferences, "orders over HTTP").await?;
    say(started, "9. a stranger challenges a row of the keeper's newest batch");
    dispute::doubt(&mut stage).await?;
    say(started, "3. a node signs wrongly: its answer is refused, another node is asked");
    steps::bad_signature(&mut stage).await?;
    steps::protocol_answered(&stage).await?;
    say(started, "1. the protocol's contract has its answer");
    dispute::wait_answered(&stage).await?;
    say(started, "9. the keeper has shown the receipt and earned the bond");
    dispute::wait_challenged(&stage).await?;
    say(started, "8. the keeper has challenged the other's batch; nobody can prove the row that nobody answered");
    if let Some(paying) = paying {
        stock::finish(&mut stage, paying).await?;
        say(started, "10. stock x402 clients have paid through the keeper: exact, upto and from a channel");
    }
    gateway::finish(&mut stage, gateway).await?;
    say(started, "11. an OpenGradient gateway was paid by x402 and has handed in its completion");
    say(started, "5. kill -9 with a broadcast batch in no block and acknowledged orders that no node saw");
    steps::kill_and_restart(&mut stage).await?;
    let kill = &stage.story.kill;
    let unmined: usize = kill.unmined.iter().map(|tx| tx.orders.len()).sum();
    let undispatched = kill.undispatched.len();
    say(started, &format!("   the keeper is back; {unmined} orders were unmined, {undispatched} undispatched"));
    steps::reclaim_unanswered(&stage).await?;
    say(started, "4. a stranger reclaimed the unanswered order for its payer");
    say(started, "6. windows pass, nodes are paid, inferences are recorded on OpenGradient");
    let patience = Duration::from_secs(90 + u64::try_from(inferences / 4).unwrap_or(0));
    let receipts = finish::receipts(&stage, patience).await?;
    say(started, &format!("   {} receipts are final; verifying them offline and counting the money", receipts.len()));
    gateway::wait_final(&mut stage).await?;
    say(started, "11. the gateway's completion is recorded on OpenGradient, its payment found and final");
    dispute::wait_unproven(&stage).await?;
    say(started, "8. the row is void: its money is held for its payer, its keeper has lost a slash of its bond");
    say(started, "7. the keeper is stopped, the guardian pauses; a payer takes its money out with an RPC URL alone");
    exit::leave(&mut stage).await?;
    dispute::end(&stage).await?;
    drop(operator);
    say(started, "8. a stranger returned the money to its payer and had the honest rows paid");
    let report = finish::report(&stage, receipts, started).await?;
    Ok((stage, report))
}
