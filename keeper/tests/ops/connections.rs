//! Callers that hold connections open: bounded in number and in time, and told so.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::net::{Keeper, Net, PATIENCE};

/// Connects from an address of this machine.
async fn from(net: &Net, ip: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{ip}:0").parse::<SocketAddr>().unwrap()).unwrap();
    socket.connect(net.devnet.config.api.listen.parse().unwrap()).await.unwrap()
}

/// A connection that has begun a request and does not end it.
async fn hang(net: &Net, ip: &str) -> TcpStream {
    let mut stream = from(net, ip).await;
    // Whoever is refused may be so already.
    let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nhost: keeper\r\nx-slow: ").await;
    stream
}

/// Everything that still comes; a connection that was cut off is one that ended.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("it stays open");
    if let Err(error) = read {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    String::from_utf8(bytes).unwrap()
}

/// Sends a request with a head of some size; its answer.
async fn with_head(net: &Net, bytes: usize) -> String {
    let mut stream = from(net, "127.0.0.1").await;
    let filler = "x".repeat(bytes);
    let request = format!("GET /livez HTTP/1.1\r\nhost: keeper\r\nconnection: close\r\nx-filler: {filler}\r\n\r\n");
    // What is too much is not read to its end.
    let _ = stream.write_all(request.as_bytes()).await;
    rest(&mut stream).await
}

fn reason(refusal: &str) -> String {
    assert!(refusal.starts_with("HTTP/1.1 503 "), "{refusal}");
    assert!(refusal.contains("\r\nretry-after: 1\r\n"), "{refusal}");
    let (_, body) = refusal.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["code"], "overloaded");
    body["details"]["reason"].as_str().unwrap().to_owned()
}

async fn lives(net: &Net) -> bool {
    net.http.get(net.url("/livez")).send().await.is_ok_and(|answer| answer.status().is_success())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_hold_connections_open_are_bounded_and_cut_off() {
    let net = Net::up().await;
    // Nobody is cut off for being slow here; all room is taken by who takes it first.
    let config = net.config(|config| {
        config.limits.connections = 4;
        config.limits.connections_per_ip = 2;
        config.limits.head_ms = 1_000_000;
        config.limits.exempt = vec!["127.0.0.1/32".parse().unwrap()];
        config.limits.trusted_proxies = config.limits.exempt.clone();
    });
    let mut keeper = Keeper::start(&net, &config).await;
    // The third is the one that asks.
    let greedy = [hang(&net, "127.0.0.2").await, hang(&net, "127.0.0.2").await];
    net.until("one address to have all it may", async || {
        let metrics = net.get("/metrics").await.1;
        metrics.as_str().unwrap_or_default().contains("quittance_queue_depth{queue=\"connections\"} 3")
    })
    .await;
    let mut refusal = String::new();
    net.until("a third connection to be told", async || {
        // Who takes too long to say anything is only cut off.
        refusal = rest(&mut hang(&net, "127.0.0.2").await).await;
        !refusal.is_empty()
    })
    .await;
    assert_eq!(reason(&refusal), "connections_per_ip");
    assert!(lives(&net).await, "others are served");
    let (mut more, mut refused) = (Vec::new(), Value::Null);
    net.until("all room to be taken", async || {
        more.push(hang(&net, "127.0.0.1").await);
        let Ok(answer) = net.http.get(net.url("/livez")).send().await else { return false };
        let full = answer.status().as_u16() == 503;
        refused = answer.json().await.unwrap();
        full
    })
    .await;
    assert_eq!(refused["details"]["reason"], "connections", "{refused}");
    drop((greedy, more));
    net.until("room to be given back", async || lives(&net).await).await;
    let metrics = net.get("/metrics").await.1;
    for reason in ["connections", "connections_per_ip"] {
        let series = format!("quittance_connections_refused_total{{reason=\"{reason}\"}}");
        assert!(metrics.as_str().unwrap().contains(&series), "{metrics}");
    }
    keeper.kill();

    // Slow ones lose their place, however often they send another byte; so do those that have nothing more to say.
    let config = net.config(|config| {
        config.limits.connections = 4;
        config.limits.head_ms = 1_500;
    });
    let _keeper = Keeper::start(&net, &config).await;
    let mut slow = hang(&net, "127.0.0.1").await;
    let mut idle = from(&net, "127.0.0.1").await;
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: keeper\r\n\r\n").await.unwrap();
    let (mut answer, mut write) = slow.split();
    let dripping = async {
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, dripping).await.expect("it is cut off");
    let mut said = Vec::new();
    let _ = answer.read_to_end(&mut said).await;
    assert!(said.is_empty(), "{}", String::from_utf8_lossy(&said));
    assert!(rest(&mut idle).await.starts_with("HTTP/1.1 200 "), "answered, then closed");

    // Heads of a megabyte are taken, larger ones are not.
    assert!(with_head(&net, 1 << 20).await.starts_with("HTTP/1.1 200 "));
    let refused = with_head(&net, 2 << 20).await;
    assert!(refused.is_empty() || refused.starts_with("HTTP/1.1 431 "), "{refused}");
    assert!(lives(&net).await);
}
