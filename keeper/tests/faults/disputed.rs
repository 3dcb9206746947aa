//! A keeper that dies in the middle of a dispute.

use std::process::Command;

use quittance::crash::ANSWERING;
use quittance::devnet::keys::Key;
use quittance::devnet::periods::Periods;
use quittance_bindings::game::DisputeGame::DisputeGameEvents as Game;
use quittance_bindings::keepers::KeeperRegistry::KeeperRegistryEvents as Keepers;
use serde_json::json;

use crate::wallet::{Wallet, ids};
use crate::world::{Setup, World, none, until};
use crate::{Group, scenarios};

/// Seconds in which a row can be challenged, and a challenge answered: more than anything takes here. Time is let pass at the end.
const PERIODS: (u64, u64) = (300, 900);

pub fn group() -> Group {
    let (window, response) = PERIODS;
    let periods = Periods { window, response, admin_delay: 3_600, ..Periods::default() };
    Group { setup: Setup { periods, ..Setup::default() }, scenarios: scenarios![killed_while_answering] }
}

/// A stranger challenges a row; the keeper dies with its answer queued, and answers after its next start.
async fn killed_while_answering(world: &mut World) {
    let mut keeper = world.start(world.config(), &[("QUITTANCE_CRASH_AT", ANSWERING)]);
    keeper.ready().await;
    let wallet = Wallet::funded(world, "disputed").await;
    let orders = wallet.ask(world, &keeper, "Who is doubted?", 2).await;
    keeper.wait_for(&ids(&orders), &["settled"]).await;

    let stranger = Key::of("doubter").unwrap();
    world.fund(stranger.address()).await;
    let batch = world.observe().await.batches[0].event.batchId;
    let mut challenge = Command::new(env!("CARGO_BIN_EXE_quittance"));
    challenge.args(["challenge", &batch.to_string(), "--row", "0", "--json"]);
    challenge.env("QUITTANCE_NETWORK", world.devnet.dir.join("network.json")).env("QUITTANCE_KEY", stranger.hex());
    let said = tokio::task::spawn_blocking(move || challenge.output().unwrap()).await.unwrap();
    assert!(
        said.status.success(),
        "{}{}",
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr)
    );

    assert!(!keeper.ended().await.success());
    assert!(keeper.log().contains(&format!("crash point {ANSWERING}")), "{}", keeper.tail());
    assert!(!world.observe().await.game.iter().any(|event| matches!(event, Game::Answered(_))));
    keeper.run(&[]);
    keeper.ready().await;
    until("the answer", || async {
        let game = world.observe().await.game;
        game.iter().any(|event| matches!(event, Game::Answered(e) if (e.batchId, e.row) == (batch, 0)))
    })
    .await;

    // The window passes; the row that was doubted is paid with the others.
    world.chain().call("evm_increaseTime", json!([PERIODS.0])).await.unwrap();
    world.chain().call("evm_mine", none()).await.unwrap();
    keeper.wait_for(&ids(&orders), &["final"]).await;
    world.audit(&[&keeper]).await;
    let seen = world.observe().await;
    let answers = seen.game.iter().filter(|event| matches!(event, Game::Answered(_))).count();
    assert_eq!((answers, seen.game.len()), (1, 2), "one challenge, one answer");
    assert!(!seen.keepers.iter().any(|event| matches!(event, Keepers::Slashed(_))));
}
