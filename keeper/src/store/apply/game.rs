//! Effects of the dispute game's events: challenges against any batch, and what became of them.

use quittance_bindings::game::DisputeGame::Challenged;

use crate::chain::logs::GameEvents;
use crate::error::Result;
use crate::store::challenges::{self, Open};
use crate::store::{WriteTx, events};

/// Applies one event.
pub(super) async fn apply(tx: &mut WriteTx, event: &GameEvents) -> Result<()> {
    match event {
        GameEvents::Challenged(e) => {
            challenges::opened(tx, &open(e)?, e.unit, e.bond).await?;
            tracing::warn!(batch = e.batchId, row = e.row, challenger = %e.challenger, deadline = e.deadline.to::<u64>(), "row challenged");
            metrics::counter!("quittance_challenges_total").increment(1);
            Ok(())
        }
        GameEvents::Answered(e) => {
            tracing::info!(batch = e.batchId, row = e.row, "challenge answered");
            challenges::set_state(tx, events::column(e.batchId)?, e.row.into(), "open", "answered").await
        }
        GameEvents::Unproven(e) => {
            tracing::error!(
                batch = e.batchId,
                row = e.row,
                "challenge unanswered: the row is void and its keeper slashed"
            );
            challenges::set_state(tx, events::column(e.batchId)?, e.row.into(), "open", "unproven").await
        }
        GameEvents::Duplicate(e) => challenges::duplicate(tx, events::column(e.batchId)?, e.row.into()).await,
        GameEvents::BondWithdrawn(_) => Ok(()),
    }
}

/// Undoes one event.
pub(super) async fn undo(tx: &mut WriteTx, event: &GameEvents) -> Result<()> {
    match event {
        GameEvents::Challenged(e) => challenges::forget(tx, events::column(e.batchId)?, e.row.into()).await,
        GameEvents::Answered(e) => {
            challenges::set_state(tx, events::column(e.batchId)?, e.row.into(), "answered", "open").await
        }
        GameEvents::Unproven(e) => {
            challenges::set_state(tx, events::column(e.batchId)?, e.row.into(), "unproven", "open").await
        }
        GameEvents::Duplicate(e) => challenges::not_duplicate(tx, events::column(e.batchId)?, e.row.into()).await,
        GameEvents::BondWithdrawn(_) => Ok(()),
    }
}

fn open(e: &Challenged) -> Result<Open> {
    Ok(Open {
        chain_batch_id: events::column(e.batchId)?,
        row: e.row.into(),
        challenger: e.challenger,
        deadline: events::column(e.deadline.to())?,
        answer_tx_id: None,
        resolve_tx_id: None,
    })
}
