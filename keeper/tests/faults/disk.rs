//! No room for another byte: what the keeper cannot store it refuses, what it acknowledged it keeps, and it goes on by itself when
//! there is room again.

use std::path::PathBuf;

use serde_json::Value;

use crate::wallet::{Signed, Terms, Wallet, ids};
use crate::world::{Keeper, World, until};

/// Bytes that the keeper's files may still grow by.
const ROOM: u64 = 300_000;

/// The largest of the keeper's files: the limit is one for all of them, as on a disk that they share.
fn largest(keeper: &Keeper) -> u64 {
    let database = keeper.config.keeper.database.trim_start_matches("sqlite:").to_owned();
    let mut files: Vec<PathBuf> = ["", "-wal", "-shm"].iter().map(|end| format!("{database}{end}").into()).collect();
    files.push(keeper.log_file().to_owned());
    files.iter().filter_map(|file| std::fs::metadata(file).ok()).map(|file| file.len()).max().unwrap_or(0)
}

/// Hands orders in until one is refused for want of room; those that were acknowledged.
async fn until_full(world: &World, keeper: &Keeper, wallet: &Wallet, round: u32) -> Vec<Signed> {
    let mut taken = Vec::new();
    for number in 0..2_000 {
        let order = wallet.order(world, &format!("Round {round}, is there room for {number}?"), Terms::default()).await;
        let request = world.http.post(format!("{}/orders", keeper.url)).header("prefer", "respond-async");
        let answer = request.json(&order.body).send().await.expect("an answer");
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.expect("an answer in JSON");
        match status {
            200 | 202 => {
                world.acknowledge(keeper, &order.order, order.id);
                taken.push(order);
            }
            _ => {
                assert!(matches!(status, 500 | 503), "{status} {body}");
                assert!(matches!(body["code"].as_str(), Some("internal" | "overloaded")), "{body}");
                if body["code"] == "internal" {
                    return taken;
                }
            }
        }
    }
    panic!("the disk never became full");
}

/// The files of a keeper cannot grow any more, once while it runs and once when it starts.
pub async fn disk_full(world: &mut World) {
    let mut config = world.config();
    // What it could not store of an answer is asked again when its claim on the order ends.
    config.dispatch.timeout_ms = 2_000;
    let mut keeper = world.start(config, &[]);
    keeper.kill();
    // As a full disk does, the limit fails the write and not the process.
    "trap '' XFSZ".clone_into(&mut keeper.prelude);
    keeper.run(&[]);
    keeper.ready().await;
    let wallet = Wallet::funded(world, "disk-full").await;
    let mut orders = wallet.ask(world, &keeper, "There is room", 2).await;
    for round in 0..2 {
        keeper.limit_files(&(largest(&keeper) + ROOM).to_string());
        orders.extend(until_full(world, &keeper, &wallet, round).await);
        until("not ready", || async {
            let answer = world.http.get(format!("{}/readyz", keeper.url)).send().await;
            answer.is_ok_and(|answer| answer.status().as_u16() == 503)
        })
        .await;
        assert!(!keeper.has_ended(), "it waits for room\n{}", keeper.tail());
        keeper.limit_files("unlimited");
        keeper.ready().await;
        let (status, answer) = crate::wallet::hand_in(world, &keeper, &orders[0], false).await.expect("an answer");
        assert!(matches!(status, 200 | 202), "{answer}");
    }
    keeper.wait_for(&ids(&orders), &["final"]).await;

    // It dies with the disk full, and does not start on it: what it could not store it would have to refuse anyway.
    keeper.limit_files(&(largest(&keeper) + ROOM).to_string());
    orders.extend(until_full(world, &keeper, &wallet, 2).await);
    keeper.kill();
    let full = "trap '' XFSZ; ulimit -S -f 0".to_owned();
    let roomy = std::mem::replace(&mut keeper.prelude, full);
    keeper.run(&[]);
    let status = keeper.ended().await;
    assert_eq!(status.code(), Some(1), "{status}");
    keeper.prelude = roomy;
    keeper.run(&[]);
    keeper.ready().await;
    keeper.wait_for(&ids(&orders), &["final"]).await;
    world.audit(&[&keeper]).await;
}
