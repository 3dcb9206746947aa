//! The API in-process: a real store, real signatures, devnet nodes over HTTP; no chain. This file is what the tests share.

mod completions;
mod gateway;
mod health;
mod heartbeat;
mod limits;
mod reads;
mod receipts;
mod serving;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::aliases::U40;
use alloy::primitives::{Address, B256, U256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, Response, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use quittance_bindings::typed::{Order, domain, message_hash, order_id, request_commit, settlement_id};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::canonical::canonical_request;
use crate::clock::Clock;
use crate::config::Config;
use crate::crypto::RsaKey;
use crate::ctx::{Ctx, SharedCtx};
use crate::devnet::node::misbehave::{Misbehaviour, Mode};
use crate::devnet::node::{NodeConfig, RunningNode, serve};
use crate::receipt::ReceiptFile;
use crate::receipt::verify::{all_ok, offline};
use crate::registry::{Label, NodeRecord, NodeVersion};
use crate::store::completions::Usage;
use crate::store::{Store, accounts, api_keys, evidence, nodes, orders};
use crate::verify::meter::{Charge, rates};
use crate::wire::OrderFields;
use crate::{dispatch, ingest};

const TOKEN: Address = Address::repeat_byte(0x70);
const ESCROW: Address = Address::repeat_byte(0xE5);
const LEDGER: Address = Address::repeat_byte(0x1E);
const KEEPER: B256 = B256::repeat_byte(0x4E);
const REQUEST: &str =
    r#"{"model":"canned-small","messages":[{"role":"user","content":"What is the capital of France?"}]}"#;

struct Api {
    ctx: SharedCtx,
    router: Router,
    nodes: Vec<RunningNode>,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn key(seed: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(seed)).unwrap()
}

fn config(dir: &tempfile::TempDir, extra: &str) -> Config {
    let database = dir.path().join("k.db");
    let text = format!(
        r#"
        [keeper]
        id = "{KEEPER}"
        database = "sqlite:{}"
        receipt_key = {{ env = "UNUSED" }}
        [base]
        chain_id = 8453
        rpc = ["http://127.0.0.1:1"]
        escrow = "{ESCROW}"
        ledger = "{LEDGER}"
        node_registry = "{ESCROW}"
        dispute_game = "{ESCROW}"
        keeper_registry = "{ESCROW}"
        start_block = 0
        key = {{ env = "UNUSED" }}
        tokens = ["{TOKEN}"]
        [opengradient]
        chain_id = 10740
        rpc = ["http://127.0.0.1:1"]
        inbox = "{ESCROW}"
        tee_registry = "{ESCROW}"
        start_block = 0
        key = {{ env = "UNUSED" }}
        [batch]
        max_age_ms = 1000
        [dispatch]
        timeout_ms = 3000
        retry_ms = 100
        deadline_margin = 5
        [[rates]]
        version = "2026-11"
        token = "{TOKEN}"
        input = "1000000"
        output = "2000000"
        {extra}
        "#,
        database.display()
    );
    toml::from_str(&text).unwrap()
}

impl Api {
    async fn new(modes: &[Misbehaviour]) -> Self {
        Self::with(modes, true, |_| {}).await
    }

    /// Nodes with these manners; loops run unless `loops` is false.
    async fn with(modes: &[Misbehaviour], loops: bool, change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let mut config = config(&dir, "");
        let store = Store::open(&config.keeper.database).await.unwrap();
        let (mut running, mut meter) = (Vec::new(), BTreeMap::new());
        let mut tx = store.write().await.unwrap();
        for (seed, misbehave) in (1_u8..).zip(modes) {
            let rsa = RsaKey::generate().unwrap();
            let (id, spki) = (rsa.id(), rsa.spki().to_vec());
            let node_config = NodeConfig { misbehave: *misbehave, ..NodeConfig::default() };
            let node = serve(node_config, rsa, Clock::default(), stop.clone()).await.unwrap();
            let version = NodeVersion {
                number: 1,
                verifier: ESCROW,
                meter_key: key(seed).address(),
                label: Label::Mirrored,
                created_at: 1,
                replaced_at: 0,
                public_key: spki,
                key: None,
            };
            let record = NodeRecord {
                id,
                version: 1,
                label: Label::Mirrored,
                operator: ESCROW,
                payout: ESCROW,
                registered_at: 1,
                retired_at: 0,
                revoked_at: 0,
                endpoint: None,
                versions: BTreeMap::from([(1, version)]),
            };
            nodes::replace(&mut tx, id, Some(&record)).await.unwrap();
            config.nodes.push(crate::config::Node { id, url: Some(node.url()), meter_key: None });
            meter.insert(id, key(seed));
            running.push(node);
        }
        let payer = key(0x77).address();
        accounts::put_lock(&mut tx, (payer, TOKEN, KEEPER), 1_000_000, u64::from(u32::MAX)).await.unwrap();
        tx.commit().await.unwrap();
        change(&mut config);
        let mut ctx = Ctx::new(config, store).unwrap();
        ctx.keys.receipt = Some(key(0x55));
        ctx.keys.meter = meter;
        ctx.lock_tail = 60;
        let ctx = Arc::new(ctx);
        ctx.registry.refresh(&ctx.store, &ctx.config).await.unwrap();
        if loops {
            tokio::spawn(ingest::run(ctx.clone(), stop.clone()));
            tokio::spawn(dispatch::run(ctx.clone(), stop.clone()));
        }
        Self { router: super::router(ctx.clone()), ctx, nodes: running, stop, _dir: dir }
    }

    async fn raw(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn post(&self, path: &str, body: impl Into<Body>, headers: &[(&str, &str)]) -> (u16, Value) {
        let mut request = Request::post(path).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        json_of(self.raw(request.body(body.into()).unwrap()).await).await
    }

    async fn get(&self, path: &str, authorization: Option<&str>) -> (u16, Value) {
        let mut request = Request::get(path);
        if let Some(value) = authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        json_of(self.raw(request.body(Body::empty()).unwrap()).await).await
    }

    /// A good order of the payer that the store knows a lock of.
    fn order(&self, nonce: u64) -> Order {
        let now = self.ctx.clock.now();
        Order {
            payer: key(0x77).address(),
            token: TOKEN,
            maxAmount: 1_000,
            requestCommit: request_commit(request_hash(REQUEST), B256::ZERO),
            nodeScope: B256::ZERO,
            keeperId: KEEPER,
            validAfter: U40::from(now - 10),
            validBefore: U40::from(now + 600),
            captureDeadline: U40::from(now + 3_600),
            nonce: U256::from(nonce),
        }
    }

    async fn submit(&self, order: &Order) -> (u16, Value) {
        self.post("/orders", submission(order, REQUEST, 0x77), &[]).await
    }

    async fn refused(&self, order: &Order) -> String {
        let (status, body) = self.submit(order).await;
        assert!(status >= 400, "{body}");
        assert!(orders::get(self.ctx.store.read(), id(order)).await.unwrap().is_none(), "nothing is stored");
        code(&body)
    }

    async fn lane(&self) -> accounts::Lane {
        accounts::lane(self.ctx.store.read(), key(0x77).address(), TOKEN, KEEPER).await.unwrap()
    }
}

async fn json_of(response: Response<Body>) -> (u16, Value) {
    let status = response.status().as_u16();
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes))))
}

fn code(body: &Value) -> String {
    assert!(body["message"].as_str().is_some_and(|text| text.len() > 10), "{body}");
    body["code"].as_str().unwrap().to_owned()
}

fn id(order: &Order) -> B256 {
    order_id(order, &domain(8453, ESCROW))
}

fn request_hash(request: &str) -> B256 {
    canonical_request(request.as_bytes()).unwrap()[0].hash
}

fn submission(order: &Order, request: &str, signer: u8) -> String {
    let signature = key(signer).sign_hash_sync(&id(order)).unwrap();
    let order = serde_json::to_string(&OrderFields::from(order)).unwrap();
    format!(r#"{{"order":{order},"signature":"0x{}","request":{request}}}"#, hex::encode(signature.as_bytes()))
}

fn mode(mode: Mode) -> Misbehaviour {
    Misbehaviour { mode, ..Misbehaviour::default() }
}

fn good() -> Misbehaviour {
    Misbehaviour::default()
}
