//! Tests of the port against real sockets.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

struct Running {
    addr: SocketAddr,
    readiness: Readiness,
    shutdown: CancellationToken,
    server: JoinSet<()>,
}

async fn start() -> Running {
    let readiness = Readiness::default();
    let shutdown = CancellationToken::new();
    let metrics = Metrics::new("saltway-test", "1");
    let pages = Router::new().route("/status", get(|| async { "a page of the daemon" }));
    // The pages have a token of their own here, so that a test can ask them during the end.
    let server = HttpServer::bind(
        "127.0.0.1:0".parse().unwrap(),
        metrics,
        readiness.clone(),
        shutdown.clone(),
        pages,
    )
    .await
    .unwrap();
    let addr = server.local_addr().unwrap();
    let mut set = JoinSet::new();
    set.spawn(server.serve(CancellationToken::new()));
    Running {
        addr,
        readiness,
        shutdown,
        server: set,
    }
}

async fn fetch(addr: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

#[tokio::test]
async fn metrics_are_served_as_prometheus_reads_them() {
    let running = start().await;
    let reply = fetch(running.addr, "/metrics").await;
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    assert!(
        reply.contains("content-type: text/plain; version=0.0.4"),
        "{reply}"
    );
    assert!(reply.contains("process_resident_memory_bytes "), "{reply}");
}

#[tokio::test]
async fn readyz_lists_the_conditions() {
    let running = start().await;
    let redis = running.readiness.condition("redis");
    redis.fails("connection refused");
    let reply = fetch(running.addr, "/readyz").await;
    assert!(reply.starts_with("HTTP/1.1 503"), "{reply}");
    assert!(
        reply.ends_with("\r\n\r\nredis: no: connection refused\n"),
        "{reply}"
    );
    redis.holds();
    let reply = fetch(running.addr, "/readyz").await;
    assert!(
        reply.starts_with("HTTP/1.1 200") && reply.ends_with("redis: ok\n"),
        "{reply}"
    );
}

#[tokio::test]
async fn healthz_fails_once_the_tasks_are_ending() {
    let running = start().await;
    assert!(
        fetch(running.addr, "/healthz")
            .await
            .starts_with("HTTP/1.1 200")
    );
    running.shutdown.cancel();
    assert!(
        fetch(running.addr, "/healthz")
            .await
            .starts_with("HTTP/1.1 503")
    );
}

#[tokio::test]
async fn the_daemons_own_pages_are_served_and_unknown_ones_are_not() {
    let running = start().await;
    assert!(
        fetch(running.addr, "/status")
            .await
            .ends_with("a page of the daemon")
    );
    assert!(
        fetch(running.addr, "/other")
            .await
            .starts_with("HTTP/1.1 404")
    );
}

#[tokio::test]
async fn an_address_in_use_is_told_with_its_key() {
    let running = start().await;
    let err = HttpServer::bind(
        running.addr,
        Metrics::new("saltway-test", "1"),
        Readiness::default(),
        CancellationToken::new(),
        Router::new(),
    )
    .await
    .unwrap_err();
    let told = crate::chain(&err).to_string();
    assert!(
        told.contains(&running.addr.to_string()) && told.contains("`http.listen`"),
        "{told}"
    );
    assert!(told.contains("in use"), "{told}");
}

#[tokio::test]
async fn nonsense_is_answered_with_an_error_and_the_port_goes_on() {
    let running = start().await;
    let mut stream = TcpStream::connect(running.addr).await.unwrap();
    stream.write_all(&[0xff; 100_000]).await.unwrap();
    let mut reply = Vec::new();
    // The server may cut the connection before everything was sent; either way it ends.
    drop(stream.read_to_end(&mut reply).await);
    assert!(
        fetch(running.addr, "/healthz")
            .await
            .starts_with("HTTP/1.1 200")
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_asks_is_cut_off() {
    let running = start().await;
    let mut stream = TcpStream::connect(running.addr).await.unwrap();
    let began = tokio::time::Instant::now();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost:")
        .await
        .unwrap();
    let mut reply = Vec::new();
    drop(stream.read_to_end(&mut reply).await);
    assert!(
        began.elapsed() <= CONNECTION_TIMEOUT,
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn the_port_closes_when_asked() {
    let mut running = start().await;
    running.server.shutdown().await;
    TcpStream::connect(running.addr).await.unwrap_err();
}

#[tokio::test]
async fn more_connections_than_the_bound_wait_for_room() {
    let running = start().await;
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        idle.push(TcpStream::connect(running.addr).await.unwrap());
    }
    let waiting = fetch(running.addr, "/healthz");
    let mut waiting = std::pin::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "no room for it yet");
    drop(idle);
    assert!(waiting.await.starts_with("HTTP/1.1 200"));
}
