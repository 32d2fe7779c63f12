//! Signals: SIGTERM drains and logs each step, SIGHUP reads files again and closes nothing.
#![cfg(unix)]

use std::{fs, path::PathBuf};

use http_body_util::Full;
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::support::{Client, TestServer};

/// A temporary file, removed on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, content: &str) -> Self {
        let name = format!("roomcast-signals-{}-{name}", std::process::id());
        let file = Self(std::env::temp_dir().join(name));
        file.write(content);
        file
    }

    fn write(&self, content: &str) {
        fs::write(&self.0, content).expect("written");
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Asserts that the log contains these texts in this order.
fn assert_logged(log: &str, texts: &[&str]) {
    let mut rest = log;
    for text in texts {
        let Some((_, after)) = rest.split_once(text) else { panic!("no `{text}` in {log}") };
        rest = after;
    }
}

#[tokio::test]
async fn sigterm_logs_each_step_of_the_shutdown() {
    let (site, process) = TestServer::start_process(&[]).await;
    let mut viewers = [Client::connect(&site).await, Client::connect(&site).await];
    process.signal("TERM").await;
    for viewer in &mut viewers {
        viewer.rest().await;
        assert!(viewer.closed);
    }
    drop(viewers);
    let (code, log) = process.end().await;
    assert_eq!(code, Some(0), "{log}");
    let told = ["SIGTERM received", "draining 2 connections", "2 connections closed in", "stopped"];
    assert_logged(&log, &told);
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let (site, process) = TestServer::start_process(&[("GRACE", "10m")]).await;
    // A request whose body never comes delays the exit.
    let stalled = TcpStream::connect(site.addr).await.expect("connected");
    let head = b"POST /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n";
    stalled.writable().await.expect("writable");
    assert_eq!(stalled.try_write(head).expect("sent"), head.len());
    site.until_metric("roomcast_connections", 1).await;
    process.signal("TERM").await;
    site.until("draining", async || site.get("/readyz").await.0 == 503).await;
    process.signal("INT").await;
    let (code, log) = process.end().await;
    assert_eq!(code, Some(1), "{log}");
    assert_logged(
        &log,
        &["SIGTERM received", "draining 1 connections", "SIGINT received, the second"],
    );
}

#[tokio::test]
async fn sighup_without_files_logs_one_line() {
    let (site, process) = TestServer::start_process(&[]).await;
    let mut viewer = Client::connect(&site).await;
    process.signal("HUP").await;
    // A message delivered afterwards shows that the server still runs.
    viewer.join("device01").await;
    site.publish("device01", "still here").await;
    assert_eq!(viewer.message().await, "still here");
    process.signal("TERM").await;
    viewer.rest().await;
    drop(viewer);
    let (code, log) = process.end().await;
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(log.matches("SIGHUP").count(), 1, "{log}");
    assert_logged(&log, &["SIGHUP received: no certificate and no token is read from a file"]);
}

#[tokio::test]
async fn sighup_loads_new_tokens_and_keeps_the_old_ones_if_the_file_is_unreadable() {
    let file = Scratch::new("tokens", "old\n");
    let (site, process) = TestServer::start_process(&[("PUBLISH_TOKEN_FILE", file.path())]).await;
    let publish = async |token: &str| {
        let stream = TcpStream::connect(site.addr).await.expect("connected");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        let request = Request::post("/publish/device01").header("host", "localhost");
        let request = request.header("authorization", format!("Bearer {token}"));
        let request = request.body(Full::<Bytes>::from("hello")).expect("a request");
        sender.send_request(request).await.expect("a response").status().as_u16()
    };
    assert_eq!((publish("old").await, publish("new").await), (202, 401));
    file.write("new\n");
    process.signal("HUP").await;
    site.until("the new one is in use", async || publish("new").await == 202).await;
    assert_eq!(publish("old").await, 401);
    fs::remove_file(&file.0).expect("removed");
    process.signal("HUP").await;
    process.told("what was read before stays in use").await;
    assert_eq!(publish("new").await, 202);
    let log = process.stop().await;
    assert_logged(
        &log,
        &["PUBLISH_TOKEN_FILE read again: changed", "PUBLISH_TOKEN_FILE: cannot read"],
    );
}
