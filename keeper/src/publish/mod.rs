//! Publishing the rows of batches, so that anybody can look for the unit of money that it doubts: an outbox row is written
//! with the batch, the upload is repeated until the place has it. What is published names no prompt and no answer.

pub mod place;
pub mod rows;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::ctx::{Ctx, SharedCtx};
use crate::error::Result;
use crate::publish::place::Place;
use crate::store::leases::Lease;
use crate::store::publications;

/// Milliseconds between ticks.
const TICK_MS: u64 = 500;
/// Uploads in one tick.
const LIMIT: i64 = 16;
/// Milliseconds before a failed upload is tried again; doubles each time.
const DELAY_MS: i64 = 2_000;
/// Milliseconds that an upload waits at most for its next try.
const MAX_DELAY_MS: i64 = 10 * 60 * 1_000;

/// Runs until `stop`.
///
/// # Errors
/// `store_failed`, `store_corrupt`: the tick can be run again. `bad_configuration` for a place that is none.
pub async fn run(ctx: SharedCtx, stop: CancellationToken) -> Result<()> {
    let place = ctx.config.publish.as_ref().map(Place::new).transpose()?;
    let mut role = Lease::new("publish", &ctx.installation);
    while !stop.is_cancelled() {
        ctx.life.beat("publish");
        if let Some(place) = &place
            && role.hold(&ctx.store, ctx.clock.elapsed_ms()).await?
        {
            tick(&ctx, place).await?;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(TICK_MS)) => {}
        }
    }
    role.release(&ctx.store).await
}

/// Uploads what is due. Two keepers that upload the same put the same bytes under the same name.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn tick(ctx: &Ctx, place: &Place) -> Result<()> {
    let now_ms = ctx.clock.now_ms();
    for due in publications::due(&ctx.store, now_ms, LIMIT).await? {
        let outcome = place.put(due.hash, &due.content).await;
        let mut tx = ctx.store.write().await?;
        match outcome {
            Ok(at) => {
                publications::done(&mut tx, due.batch_id, &at).await?;
                tx.commit().await?;
                tracing::info!(batch_id = due.batch_id, hash = %due.hash, at, "rows published");
                metrics::counter!("quittance_publications_total").increment(1);
            }
            Err(reason) => {
                let delay = DELAY_MS.saturating_mul(1 << due.attempts.clamp(0, 16)).min(MAX_DELAY_MS);
                publications::failed(&mut tx, due.batch_id, now_ms.saturating_add(delay)).await?;
                tx.commit().await?;
                tracing::warn!(batch_id = due.batch_id, attempts = due.attempts + 1, reason, "rows not published yet");
                metrics::counter!("quittance_publication_failures_total").increment(1);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use alloy::primitives::B256;
    use axum::Router;
    use axum::body::Bytes;
    use axum::extract::{Request, State};
    use axum::http::StatusCode;
    use serde_json::{Value, json};
    use sqlx::Row;

    use super::*;
    use crate::config::Config;
    use crate::publish::place::Publish;
    use crate::publish::rows::{BatchRows, hash};
    use crate::store::receipts::fixtures::{Seed, seed, store};
    use crate::store::receipts::get;

    /// What a server got, and how often it still fails.
    #[derive(Default)]
    struct Got {
        failures: usize,
        answer: Value,
        puts: Vec<(String, Vec<u8>)>,
    }

    async fn server(got: Got) -> (String, Arc<Mutex<Got>>) {
        let got = Arc::new(Mutex::new(got));
        let put = |State(got): State<Arc<Mutex<Got>>>, request: Request| async move {
            let uri = format!("{} {}", request.method(), request.uri());
            let body: Bytes = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
            let mut got = got.lock().unwrap();
            if got.failures > 0 {
                got.failures -= 1;
                return (StatusCode::SERVICE_UNAVAILABLE, String::new());
            }
            got.puts.push((uri, body.to_vec()));
            (StatusCode::OK, got.answer.to_string())
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(put).with_state(got.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (url, got)
    }

    async fn ctx() -> (tempfile::TempDir, Ctx, B256) {
        let (dir, store) = store().await.unwrap();
        let config: Config = toml::from_str(include_str!("../../quittance.example.toml")).unwrap();
        let ctx = Ctx::new(config, store).unwrap();
        let mut tx = ctx.store.write().await.unwrap();
        publications::enqueue(&mut tx, 7, hash(b"rows"), b"rows").await.unwrap();
        tx.commit().await.unwrap();
        (dir, ctx, hash(b"rows"))
    }

    async fn row(ctx: &Ctx) -> (Option<String>, Option<Vec<u8>>, i64) {
        let row = sqlx::query("SELECT place, content, attempts FROM publications WHERE batch_id = 7")
            .fetch_one(ctx.store.read())
            .await
            .unwrap();
        (row.get("place"), row.get("content"), row.get("attempts"))
    }

    #[tokio::test]
    async fn a_directory_holds_whole_files_under_their_hash() {
        let (dir, ctx, hash) = ctx().await;
        let place = Place::new(&Publish::Directory { path: dir.path().join("rows") }).unwrap();
        tick(&ctx, &place).await.unwrap();
        let file = dir.path().join("rows").join(format!("{hash}.json"));
        assert_eq!(std::fs::read(&file).unwrap(), b"rows");
        assert_eq!(row(&ctx).await, (Some(file.display().to_string()), None, 1));
        assert_eq!(std::fs::read_dir(dir.path().join("rows")).unwrap().count(), 1, "nothing half done is left");
    }

    #[tokio::test]
    async fn a_server_that_fails_gets_it_later() {
        let (_dir, ctx, hash) = ctx().await;
        let (url, got) = server(Got { failures: 2, ..Got::default() }).await;
        let place = Place::new(&Publish::Http { url: format!("{url}/b/") }).unwrap();
        for attempts in 1..=2 {
            tick(&ctx, &place).await.unwrap();
            assert_eq!(row(&ctx).await, (None, Some(b"rows".to_vec()), attempts));
            tick(&ctx, &place).await.unwrap();
            assert_eq!(row(&ctx).await.2, attempts, "not before its time");
            ctx.clock.shift(MAX_DELAY_MS);
        }
        tick(&ctx, &place).await.unwrap();
        assert_eq!(row(&ctx).await.0, Some(format!("{url}/b/{hash}.json")));
        assert_eq!(got.lock().unwrap().puts, [(format!("PUT /b/{hash}.json"), b"rows".to_vec())]);
    }

    #[tokio::test]
    async fn a_walrus_publisher_names_the_blob() {
        for answer in [
            json!({ "newlyCreated": { "blobObject": { "blobId": "M5YQ" } } }),
            json!({ "alreadyCertified": { "blobId": "M5YQ" } }),
        ] {
            let (_dir, ctx, _) = ctx().await;
            let (url, got) = server(Got { answer, ..Got::default() }).await;
            let place = Place::new(&Publish::Walrus { url: format!("{url}/v1/blobs"), epochs: 10 }).unwrap();
            tick(&ctx, &place).await.unwrap();
            assert_eq!(row(&ctx).await.0.as_deref(), Some("M5YQ"));
            assert_eq!(got.lock().unwrap().puts[0].0, "PUT /v1/blobs?epochs=10");
        }
        let (_dir, ctx, _) = ctx().await;
        let (url, _) = server(Got { answer: json!({ "other": 1 }), ..Got::default() }).await;
        tick(&ctx, &Place::new(&Publish::Walrus { url, epochs: 1 }).unwrap()).await.unwrap();
        assert_eq!(row(&ctx).await.0, None, "an answer without a blob id is a failure");
    }

    #[tokio::test]
    async fn rows_without_the_skipped_ones_have_the_ledgers_root() {
        let (_dir, store) = store().await.unwrap();
        let mut receipts = Vec::new();
        for n in 1..=3 {
            seed(&store, &Seed::new(n)).await.unwrap();
            receipts.push(get(&store, Seed::new(n).settlement_id()).await.unwrap().unwrap());
        }
        let of = |receipts: &[_]| BatchRows::of(8453, Default::default(), B256::ZERO, receipts).unwrap();
        let all = of(&receipts);
        let read: BatchRows = serde_json::from_slice(&all.bytes().unwrap()).unwrap();
        assert_eq!(read, all);
        let without: Vec<_> = [&receipts[0], &receipts[2]].into_iter().cloned().collect();
        assert_eq!(all.receipts_root(&[1]), of(&without).receipts_root(&[]));
        assert_ne!(all.receipts_root(&[]), all.receipts_root(&[1]));
        assert_eq!(all.receipts_root(&[0, 1, 2]), None);
    }
}
