//! What anybody can read of private orders: calldata, logs, roots and published rows of both chains hold nothing that a
//! dictionary of common prompts would recognise, while the same search finds a public prompt.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use alloy::primitives::{B256, keccak256};
use quittance::devnet::chains::Anvil;
use quittance_bindings::typed::{message_hash, request_commit, settlement_id};
use serde_json::{Value, json};
use sqlx::Row;

use crate::harness::{Keeper, Net, Wallet, hand_in, hash_of, request_of};

/// 10,000 prompts as people type them.
fn dictionary() -> Vec<String> {
    let asks = [
        "What is",
        "Explain",
        "Summarize",
        "Translate",
        "Write a poem about",
        "Tell me about",
        "Define",
        "Compare",
        "Give me a joke about",
        "How do I learn",
        "Write code for",
        "List facts about",
        "Write an email about",
        "Who invented",
        "Why do we need",
        "Describe",
        "Give an example of",
        "What are the risks of",
        "Teach me",
        "Rate",
    ];
    let things = [
        "love",
        "bitcoin",
        "photosynthesis",
        "a mortgage",
        "quicksort",
        "the French Revolution",
        "my diagnosis",
        "divorce",
        "a resignation letter",
        "machine learning",
        "black holes",
        "inflation",
        "vaccines",
        "yoga",
        "a lawsuit",
        "depression",
        "insulin",
        "my salary",
        "chess",
        "tax evasion",
        "marathon training",
        "Rust",
        "pregnancy",
        "an affair",
        "wine",
    ];
    let ends = [
        "",
        ".",
        "?",
        " please",
        " in simple terms",
        " in one sentence",
        " for a child",
        " in Spanish",
        " in detail",
        " step by step",
        " in 100 words",
        " for beginners",
        " today",
        " like a pirate",
        " with examples",
        " briefly",
        " for my boss",
        " for my doctor",
        " in a table",
        " and why",
    ];
    let mut all = Vec::with_capacity(10_000);
    for ask in asks {
        for thing in things {
            all.extend(ends.iter().map(|end| format!("{ask} {thing}{end}")));
        }
    }
    all
}

/// Everything that a guess of a prompt lets one compute.
fn guesses(prompt: &str) -> Vec<B256> {
    let hash = hash_of(&request_of(prompt));
    let text = keccak256(prompt);
    vec![hash, request_commit(hash, B256::ZERO), keccak256(hash), keccak256(keccak256(hash)), text, keccak256(text)]
}

/// Every byte of calldata and logs of a chain.
async fn bytes_of(chain: &Anvil) -> Vec<u8> {
    let mut corpus = Vec::new();
    let latest = chain.call("eth_blockNumber", json!([])).await.unwrap();
    let latest = u64::from_str_radix(latest.as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
    for number in 0..=latest {
        let block = chain.call("eth_getBlockByNumber", json!([format!("{number:#x}"), true])).await.unwrap();
        for transaction in block["transactions"].as_array().unwrap() {
            push(&mut corpus, &transaction["input"]);
        }
    }
    let all = json!([{ "fromBlock": "0x0", "toBlock": "latest" }]);
    for log in chain.call("eth_getLogs", all).await.unwrap().as_array().unwrap() {
        push(&mut corpus, &log["topics"]);
        push(&mut corpus, &log["data"]);
    }
    corpus
}

/// Appends the text of a value, and its bytes where it is hexadecimal.
fn push(corpus: &mut Vec<u8>, value: &Value) {
    match value {
        Value::String(text) => {
            if let Some(Ok(bytes)) = text.strip_prefix("0x").map(hex::decode) {
                corpus.extend(bytes);
            }
            corpus.extend(text.as_bytes());
        }
        Value::Array(values) => values.iter().for_each(|value| push(corpus, value)),
        Value::Object(members) => members.values().for_each(|value| push(corpus, value)),
        other => corpus.extend(other.to_string().bytes()),
    }
}

fn contains(corpus: &[u8], text: &[u8]) -> bool {
    corpus.windows(text.len()).any(|window| window == text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dictionary_finds_no_private_prompt() {
    let dictionary = dictionary();
    assert_eq!(dictionary.iter().collect::<HashSet<_>>().len(), 10_000);
    let net = Net::up().await;
    let mut keeper = Keeper::start(&net, None);
    let wallet = Wallet::funded(&net, "e2e-private").await;
    keeper.ready(&net).await;

    let private = [13, 4_444, 9_001].map(|n: usize| &dictionary[n]);
    let public = &dictionary[2_500];
    let mut ids = Vec::new();
    for (prompt, hidden) in private.iter().map(|prompt| (*prompt, true)).chain([(public, false)]) {
        let order = wallet.order(&net, prompt, hidden);
        let (status, answer) = hand_in(&net, &order, true).await.expect("an answer");
        assert_eq!(status, 200, "{answer}\n{}", net.log_tail());
        ids.push(order.id);
    }
    net.wait_for(&ids, "final", Duration::from_secs(120)).await;
    let store = net.store().await;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let left: i64 = sqlx::query_scalar(
            "SELECT (SELECT COUNT(*) FROM publications WHERE place IS NULL) +
             (SELECT COUNT(*) FROM completions WHERE record_state IN ('due', 'submitted'))",
        )
        .fetch_one(store.read())
        .await
        .unwrap();
        if left == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "not published or not recorded\n{}", net.log_tail());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    let mut corpus = bytes_of(&net.devnet.chains.base).await;
    corpus.extend(bytes_of(&net.devnet.chains.opengradient).await);
    let mut files = 0;
    for file in std::fs::read_dir(net.devnet.dir.join("rows")).unwrap() {
        let text = std::fs::read(file.unwrap().path()).unwrap();
        push(&mut corpus, &serde_json::from_slice(&text).unwrap());
        corpus.extend(text);
        files += 1;
    }
    assert!(files > 0, "rows are published");

    let mut known: HashMap<B256, &str> = HashMap::new();
    for prompt in &dictionary {
        known.extend(guesses(prompt).into_iter().map(|guess| (guess, prompt.as_str())));
    }
    let found: HashSet<&str> =
        corpus.windows(32).filter_map(|window| known.get(&B256::from_slice(window)).copied()).collect();
    assert_eq!(found, HashSet::from([public.as_str()]), "the public prompt, and no other");
    for prompt in private {
        assert!(!contains(&corpus, prompt.as_bytes()), "{prompt:?} stands in the open");
    }

    // Nor does what only the payer and the node know.
    let rows = sqlx::query(
        "SELECT c.node_id, c.request_hash, c.output_hash, c.timestamp, o.blinding FROM completions c \
         JOIN orders o ON o.order_id = c.order_id",
    );
    let rows = rows.fetch_all(store.read()).await.unwrap();
    store.close().await;
    assert_eq!(rows.len(), ids.len());
    for row in rows {
        let word = |name: &str| B256::from_slice(&row.get::<Vec<u8>, _>(name));
        let timestamp: i64 = row.get("timestamp");
        let message = message_hash(word("request_hash"), word("output_hash"), u64::try_from(timestamp).unwrap());
        let hidden = word("blinding") != B256::ZERO;
        for (name, value) in [
            ("request hash", word("request_hash")),
            ("output hash", word("output_hash")),
            ("settlement id", settlement_id(word("node_id"), message)),
        ] {
            assert_eq!(contains(&corpus, value.as_slice()), !hidden, "{name}");
        }
    }
}
