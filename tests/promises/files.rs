//! A process without free file descriptors: it logs this once, and still answers health checks.
#![cfg(unix)]

use tokio::net::TcpStream;

use crate::support::TestServer;

#[tokio::test]
async fn health_checks_are_answered_without_free_file_descriptors() {
    const FILES: usize = 100;
    let limit = format!("ulimit -n {FILES}; exec \"$0\"");
    let (site, process) = TestServer::start_process_by(&["/bin/sh", "-c", &limit], &[]).await;
    let Some(redis) = site.redis_addr() else { panic!("an address") };
    let mut taken = Vec::new();
    // The kernel completes connections even if the process cannot accept them.
    for _ in 0..2 * FILES {
        taken.push(TcpStream::connect(redis).await.expect("connected"));
    }
    process.told("the embedded broker cannot accept").await;
    for _ in 0..FILES {
        assert_eq!(site.get("/livez").await, (200, "live\n".into()));
    }
    assert!(site.metric("roomcast_accept_errors_total").await > 0);
    drop(taken);
    site.until("one more can connect", async || TcpStream::connect(site.addr).await.is_ok()).await;
    let log = process.stop().await;
    assert_eq!(log.matches("cannot accept connections").count(), 1, "{log}");
    assert_eq!(log.matches("the embedded broker cannot accept").count(), 1, "{log}");
}
