//! The demo's first six steps.

use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes};
use alloy::providers::Provider;
use alloy::sol_types::{SolCall, SolEvent};
use quittance_bindings::{InferenceConsumer, InferenceEscrow, NodeRegistry};
use serde_json::{Value, json};

use super::kill;
use super::stage::{Stage, failed, order_id, unexpected};
use super::story::{BadNode, Protocol, Refused, Unanswered};
use super::wallets::{MONEY, Terms, consumer, request};
use crate::cli::order::{canonical, submit};
use crate::cli::order_file::OrderFile;
use crate::cli::send::read;
use crate::crypto::RsaKey;
use crate::devnet::deploy::fund;
use crate::devnet::keys::Key;
use crate::devnet::sender::Sender;
use crate::error::{Error, Result};
use crate::verify::completion::Evidence;

/// The node that signs wrongly in step 3.
const BAD: usize = 0;
/// Seconds for which nobody answers in step 4: the least that the escrow allows, and time for a busy machine to send it.
const UNANSWERED_FOR: u64 = 22;
const PATIENCE: Duration = Duration::from_secs(60);

/// Step 1: a protocol's contract orders on-chain.
///
/// # Errors
/// `rpc_failed` when the contract's calls fail.
pub async fn protocol_orders(stage: &mut Stage) -> Result<()> {
    let (mut sender, consumer) = consumer(&stage.devnet).await?;
    let body = canonical(&request("What should the protocol do next?")?).map_err(failed)?.bytes;
    let (token, _, _, max) = MONEY[0];
    let call = InferenceConsumer::askCall {
        token,
        max,
        node: B256::ZERO,
        term: alloy::primitives::Uint::from(300),
        request: body.into(),
    };
    sender.call(consumer, &call).await?;
    let receipts = sender.settle().await?;
    let opened = receipts
        .iter()
        .flat_map(|receipt| receipt.inner.logs())
        .find_map(|log| InferenceEscrow::OrderOpened::decode_log(&log.inner).ok().map(|event| event.data.orderId));
    let order_id = opened.ok_or_else(|| Error::Config("the consumer opened no order".to_owned()))?;
    stage.story.protocol = Protocol { consumer, order_id };
    Ok(())
}

/// Waits until the contract of step 1 has its answer.
///
/// # Errors
/// `io_failed` when it has none in a minute.
pub async fn protocol_answered(stage: &Stage) -> Result<()> {
    let Protocol { consumer, order_id } = stage.story.protocol;
    let base = stage.devnet.chains.base.provider();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer =
            read(base, consumer, &InferenceConsumer::answersCall { orderId: order_id }).await.map_err(failed)?;
        if !answer.is_empty() {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            return Err(unexpected("the protocol's contract has no answer", &stage.order(order_id).await?));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Step 3: one node signs wrongly; the order that met it goes to another.
///
/// # Errors
/// `io_failed` when no order met the node or the keeper took its answer.
pub async fn bad_signature(stage: &mut Stage) -> Result<()> {
    stage.misbehave(BAD, "bad_signature", 0).await?;
    let before = stage.answered(BAD).await?;
    // Nodes take turns: one of the next orders meets it.
    for _ in 0..4 * stage.devnet.nodes.len() {
        let file = stage.next_order(Terms { token: 0, ..Terms::default() })?;
        let (_, answer) = submit(&stage.api, &file, false).await.map_err(failed)?;
        let id = order_id(&file)?;
        stage.story.http.push(id);
        let answers = stage.answered(BAD).await? - before;
        if answers > 0 {
            let (refused, code) = refused_evidence(stage, &file, id).await?;
            stage.story.bad_node = BadNode { order_id: id, refused, answers, code };
            stage.misbehave(BAD, "none", 0).await?;
            return if answer.get("orderId").is_some() { Ok(()) } else { Err(unexpected("failover", &answer)) };
        }
    }
    Err(Error::Config("no order met the node that signs wrongly".to_owned()))
}

/// Asks the misbehaving node the same request directly and hands its answer in as a completion.
async fn refused_evidence(stage: &Stage, file: &OrderFile, order: B256) -> Result<(Refused, String)> {
    let request = file.request.as_ref().map(|request| request.get().to_owned()).unwrap_or_default();
    let answer = stage.node_post(BAD, "/v1/chat/completions", &request).await?;
    let evidence = Evidence::from_response(&answer)?;
    let completion = json!({
        "orderId": order,
        "nodeId": evidence.node_id,
        "request": serde_json::from_str::<Value>(&request).unwrap_or_default(),
        "output": answer.pointer("/choices/0/message/content"),
        "timestamp": evidence.timestamp,
        "signature": answer.get("tee_signature"),
        "usage": answer.get("usage"),
    });
    let refusal = match stage.api.post("/completions", completion.to_string(), &[]).await {
        Ok((_, answer)) => answer,
        Err(failure) => failure.to_json(),
    };
    let code = [refusal.pointer("/code"), refusal.pointer("/error/code"), refusal.pointer("/0/error/code")];
    let code = code.into_iter().flatten().find_map(Value::as_str).map(str::to_owned);
    let code = code.ok_or_else(|| unexpected("a wrongly signed completion", &refusal))?;
    let network = &stage.devnet.deployment.network;
    let call = NodeRegistry::nodeCall { nodeId: evidence.node_id };
    let node = read(stage.devnet.chains.base.provider(), network.base.node_registry, &call).await.map_err(failed)?;
    let refused = Refused {
        node_id: evidence.node_id,
        version: node.version,
        request_hash: evidence.request_hash,
        output_hash: evidence.output_hash,
        timestamp: evidence.timestamp,
        signature: Bytes::from(evidence.signature),
    };
    Ok((refused, code))
}

/// Step 4, first half: an order for a node that is no more (its enclave restarted with another key).
///
/// # Errors
/// `rpc_failed`.
pub async fn open_unanswered(stage: &mut Stage) -> Result<()> {
    let gone = tokio::task::spawn_blocking(RsaKey::generate).await.map_err(std::io::Error::other)??;
    let file = stage.next_order(Terms { token: 0, node: gone.id(), term: UNANSWERED_FOR, ..Terms::default() })?;
    let order = file.order().map_err(failed)?;
    let body = file.request.as_deref().map(canonical).transpose().map_err(failed)?;
    let base = &stage.devnet.chains.base;
    let wallet = stage.wallets.iter().find(|wallet| wallet.key.address() == order.payer);
    let wallet = wallet.ok_or_else(|| Error::Config("an order of no wallet".to_owned()))?;
    let mut sender = Sender::new(base.provider().clone(), base.chain_id, wallet.key.clone()).await?;
    let call = InferenceEscrow::openOrderCall {
        order: order.clone().into(),
        requestBody: body.map(|body| body.bytes).unwrap_or_default().into(),
    };
    sender.call(stage.devnet.deployment.network.base.escrow, &call).await?;
    sender.settle().await?;
    let stranger = Key::of("stranger")?;
    fund(&stage.devnet.chains, stranger.address()).await?;
    stage.story.unanswered = Unanswered {
        order_id: order_id(&file)?,
        payer: order.payer,
        stranger: stranger.address(),
        amount: order.maxAmount.to_string(),
    };
    Ok(())
}

/// Step 4, second half: a stranger reclaims it with the program itself.
///
/// # Errors
/// `io_failed` with what the program said.
pub async fn reclaim_unanswered(stage: &Stage) -> Result<()> {
    let order_id = stage.story.unanswered.order_id;
    let base = stage.devnet.chains.base.provider();
    let escrow = stage.devnet.deployment.network.base.escrow;
    let state = read(base, escrow, &InferenceEscrow::orderStateCall { id: order_id }).await.map_err(failed)?;
    let deadline: u64 = state.captureDeadline.to();
    while head_time(stage).await? <= deadline {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    stage.actor().do_run(&Key::of("stranger")?, &["order", "reclaim", &order_id.to_string()]).await
}

/// Time of the newest block, unix seconds.
///
/// # Errors
/// `rpc_failed`.
pub async fn head_time(stage: &Stage) -> Result<u64> {
    let base = &stage.devnet.chains.base;
    let rpc = |message: String| Error::Rpc { chain_id: base.chain_id, message };
    let block = base.provider().get_block(alloy::eips::BlockId::latest()).await.map_err(|e| rpc(e.to_string()))?;
    Ok(block.ok_or_else(|| rpc("no head".to_owned()))?.header.timestamp)
}

/// Step 5: `kill -9` with work in every stage, and a new start.
///
/// # Errors
/// `io_failed` when one of the two preconditions did not come about.
pub async fn kill_and_restart(stage: &mut Stage) -> Result<Vec<B256>> {
    stage.devnet.chains.base.pause().await?;
    // These are answered and broadcast, but no block takes them.
    let answered = stage.hand_in(4, "orders before the kill").await?;
    kill::wait_for_unmined(stage, &answered).await?;
    // These are acknowledged while all nodes are busy with others.
    for node in 0..stage.devnet.nodes.len() {
        stage.misbehave(node, "slow", 3_000).await?;
    }
    let busy = usize::try_from(stage.devnet.config.dispatch.concurrency).unwrap_or(8);
    let mut waiting = Vec::with_capacity(busy + 8);
    for n in 0..busy + 8 {
        let file = stage.next_order(Stage::terms(n))?;
        submit(&stage.api, &file, true).await.map_err(failed)?;
        waiting.push(order_id(&file)?);
    }
    stage.story.http.extend(&waiting);
    stage.note_peak();
    stage.story.kill.killed_pid = stage.keeper.pid();
    stage.keeper.kill()?;
    kill::verify(stage, &waiting).await?;
    for node in 0..stage.devnet.nodes.len() {
        stage.misbehave(node, "none", 0).await?;
    }
    let devnet = &stage.devnet;
    stage.keeper =
        crate::devnet::keeper::KeeperProcess::start(&stage.program, &devnet.dir, &devnet.config, &devnet.keys)?;
    stage.devnet.chains.base.resume().await?;
    stage.keeper.ready().await?;
    stage.story.kill.restarted_pid = stage.keeper.pid();
    Ok([answered, waiting].concat())
}

/// Every order of the demo that must end final.
pub fn all_orders(stage: &Stage) -> Vec<B256> {
    let mut orders = stage.story.http.clone();
    orders.push(stage.story.protocol.order_id);
    orders
}

/// Calldata of a call to `to`, if that is what a transaction is.
pub fn call_to<C: SolCall>(to: Option<Address>, target: Address, input: &[u8]) -> Option<C> {
    (to == Some(target)).then(|| C::abi_decode(input).ok()).flatten()
}
