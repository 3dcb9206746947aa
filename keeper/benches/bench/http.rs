//! Load over loopback: finished requests on kept-alive connections of one thread, as cheap as a client can be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use eyre::{Result, bail, eyre};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a run showed.
pub struct Outcome {
    pub elapsed: Duration,
    /// Microseconds of each request, sorted.
    pub latencies: Vec<u64>,
    /// How often the wanted text came back.
    pub hits: usize,
}

/// A whole request.
pub fn post(address: &str, path: &str, body: &str) -> Vec<u8> {
    post_with(address, path, &[], body)
}

/// A whole request with headers of its own.
pub fn post_with(address: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let length = body.len();
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Sends every request once, each connection the next as soon as its last is answered, and counts `wanted` in the answers.
pub async fn run(address: &str, requests: Vec<Vec<u8>>, connections: usize, wanted: &'static str) -> Result<Outcome> {
    let address = address.to_owned();
    let thread = std::thread::spawn(move || -> Result<Outcome> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(drive(address, requests, connections, wanted))
    });
    tokio::task::spawn_blocking(move || thread.join()).await?.map_err(|_| eyre!("the load thread panicked"))?
}

async fn drive(address: String, requests: Vec<Vec<u8>>, connections: usize, wanted: &'static str) -> Result<Outcome> {
    let mut streams = Vec::with_capacity(connections);
    for _ in 0..connections {
        let stream = TcpStream::connect(&address).await?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let (requests, next) = (Arc::new(requests), Arc::new(AtomicUsize::new(0)));
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for mut stream in streams {
        let (requests, next) = (Arc::clone(&requests), Arc::clone(&next));
        tasks.spawn(async move {
            let (mut latencies, mut hits, mut buffer) = (Vec::new(), 0, Vec::new());
            while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                let sent = Instant::now();
                stream.write_all(request).await?;
                let body = answer(&mut stream, &mut buffer).await?;
                latencies.push(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
                hits += body.matches(wanted).count();
            }
            Ok::<_, eyre::Report>((latencies, hits))
        });
    }
    let (mut latencies, mut hits) = (Vec::new(), 0);
    while let Some(done) = tasks.join_next().await {
        let (some, found) = done??;
        latencies.extend(some);
        hits += found;
    }
    let elapsed = started.elapsed();
    latencies.sort_unstable();
    Ok(Outcome { elapsed, latencies, hits })
}

/// Reads one answer and gives its body; anything but 200, or 202 for what is answered later, is an error.
async fn answer<'b>(stream: &mut TcpStream, buffer: &'b mut Vec<u8>) -> Result<&'b str> {
    buffer.clear();
    let mut whole = None;
    while whole.is_none_or(|whole| buffer.len() < whole) {
        if stream.read_buf(buffer).await? == 0 {
            bail!("the keeper closed the connection");
        }
        if whole.is_none()
            && let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n")
        {
            let head = std::str::from_utf8(&buffer[..end])?;
            let length = head.lines().filter_map(|line| line.split_once(':'));
            let mut length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            let length: usize = length.next().ok_or_else(|| eyre!("no length: {head}"))?.1.trim().parse()?;
            whole = Some(end + 4 + length);
        }
    }
    let text = std::str::from_utf8(buffer)?;
    if !text.starts_with("HTTP/1.1 200") && !text.starts_with("HTTP/1.1 202") {
        bail!("not accepted: {text}");
    }
    Ok(text.split_once("\r\n\r\n").map_or("", |(_, body)| body))
}
