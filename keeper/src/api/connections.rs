//! The API's connections: bounded in number, each with a time and a size for the head of its next request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::admission::connections::{Full, Place};
use crate::config::limits::Limits;
use crate::ctx::Ctx;
use crate::error::{Code, Refusal};

/// How long open requests may take after `stop`.
const DRAIN: Duration = Duration::from_secs(5);
/// After a failed accept, for lack of files most likely.
const PAUSE: Duration = Duration::from_millis(100);
/// Refused callers that are told why at the same time; others are only cut off.
const TOLD: usize = 64;
/// How long a refused caller may take to ask and to read why.
const TELL: Duration = Duration::from_secs(5);

/// Serves until `stop`, then lets open requests end for a few seconds.
pub async fn serve(listener: TcpListener, router: Router, ctx: &Ctx, stop: CancellationToken) {
    let server = builder(&ctx.config.limits);
    let told = Arc::new(Semaphore::new(TOLD));
    // Also when this future is dropped.
    let cut = CancellationToken::new();
    let _cut_on_drop = cut.clone().drop_guard();
    let open = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match ctx.admission.connections.admit(peer.ip()) {
            Ok(place) => {
                let talk = talk(server.clone(), stream, (router.clone(), peer), place, stop.clone());
                let cut = cut.clone();
                open.spawn(async move { cut.run_until_cancelled(talk).await });
            }
            Err(full) => {
                metrics::counter!("quittance_connections_refused_total", "reason" => full.as_str()).increment(1);
                if let Ok(permit) = told.clone().try_acquire_owned() {
                    tokio::spawn(async move {
                        let _ = tokio::time::timeout(TELL, refuse(stream, full)).await;
                        drop(permit);
                    });
                }
            }
        }
    }
    drop(listener);
    open.close();
    if tokio::time::timeout(DRAIN, open.wait()).await.is_err() {
        cut.cancel();
        open.wait().await;
    }
}

fn builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits.head_ms.into()))
        .max_buf_size(usize::try_from(limits.head_bytes).unwrap_or(usize::MAX));
    builder
}

/// Requests and answers of one connection, until it ends or `stop` and its open request is answered.
async fn talk(
    server: http1::Builder,
    stream: TcpStream,
    (router, peer): (Router, SocketAddr),
    place: Place,
    stop: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let router = router.clone();
        async move { Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_else(|never| match never {})) }
    });
    let mut connection = std::pin::pin!(server.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
    drop(place);
}

/// Waits for the request, since an answer before it is no HTTP, says why and closes. What the caller still sends is read away, or
/// it might never see the answer.
async fn refuse(mut stream: TcpStream, full: Full) -> std::io::Result<()> {
    let text = "no room for another connection: come again when Retry-After says, nothing was stored";
    let details = serde_json::json!({ "reason": full.as_str() });
    let body = Refusal { details, ..Refusal::new(Code::Overloaded, text) }.to_json().to_string();
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         retry-after: 1\r\nconnection: close\r\n\r\n{body}"
    );
    let mut rest = [0; 4_096];
    if stream.read(&mut rest).await? == 0 {
        return Ok(());
    }
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}
