//! `roomcast bench` is an instrument: what goes wrong must show, and what does not must not.

use std::{net::SocketAddr, process::Stdio, sync::Arc};

use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    net::TcpListener,
    process::Command,
    sync::{Mutex, broadcast},
};
use tokio_tungstenite::{accept_async, tungstenite::Message};

use crate::{
    support::{TestServer, within},
    tls::{Files, make},
};

/// Runs the program to its end: whether it is content, what it prints, what it complains of.
async fn bench(args: &[&str], redis: Option<&TestServer>) -> (bool, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roomcast"));
    command.env_clear().arg("bench").args(args).stdin(Stdio::null()).kill_on_drop(true);
    if let Some(site) = redis {
        command.env("REDISHOST", site.redis.to_string());
    }
    let output = within("the benchmark's end", command.output()).await.expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn counts(json: &str) -> [u64; 7] {
    let found: Value = serde_json::from_str(json).unwrap_or_else(|_| panic!("no JSON: {json}"));
    ["published", "delivered", "lost", "doubled", "reordered", "wrong", "closed"]
        .map(|name| found[name].as_u64().expect("a count"))
}

/// A server that takes POSTs and hands them to WebSockets, but not as it should.
struct Doctored {
    posts: SocketAddr,
    viewers: SocketAddr,
}

/// What becomes of the messages: those to hand on now that one more has come, and with the last
/// one, whether to go on.
type Doctor = fn(number: usize, message: Bytes, held: &mut Vec<Bytes>) -> Vec<Bytes>;

impl Doctored {
    async fn start(doctor: Doctor) -> Self {
        let listen = async || TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (posts, viewers) = (listen().await, listen().await);
        let addr = |listener: &TcpListener| listener.local_addr().expect("bound");
        let doctored = Self { posts: addr(&posts), viewers: addr(&viewers) };
        let (sender, _) = broadcast::channel(1024);
        tokio::spawn(Self::serve_viewers(viewers, sender.clone()));
        tokio::spawn(Self::take_posts(posts, sender, doctor));
        doctored
    }

    async fn serve_viewers(listener: TcpListener, messages: broadcast::Sender<Bytes>) {
        while let Ok((stream, _)) = listener.accept().await {
            let mut messages = messages.subscribe();
            tokio::spawn(async move {
                let mut viewer = accept_async(stream).await.expect("a WebSocket");
                loop {
                    tokio::select! {
                        message = messages.recv() => match message.expect("one that is not behind") {
                            // Nothing in it: this is the end.
                            end if end.is_empty() => return,
                            message => viewer.send(Message::binary(message)).await.expect("sent"),
                        },
                        asked = viewer.next() => if asked.is_none_or(|asked| asked.is_err()) { return },
                    }
                }
            });
        }
    }

    async fn take_posts(listener: TcpListener, messages: broadcast::Sender<Bytes>, doctor: Doctor) {
        let state = Arc::new(Mutex::new((0, Vec::new())));
        while let Ok((stream, _)) = listener.accept().await {
            let (state, messages) = (state.clone(), messages.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let (state, messages) = (state.clone(), messages.clone());
                async move {
                    let message = request.into_body().collect().await?.to_bytes();
                    let (number, held) = &mut *state.lock().await;
                    for message in doctor(*number, message, held) {
                        messages.send(message).expect("viewers");
                    }
                    *number += 1;
                    Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from("1"))))
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    }

    /// What is found when 20 messages are published to 3 viewers of one room.
    async fn found(&self) -> (bool, [u64; 7]) {
        let url = format!("ws://{}/{{room}}", self.viewers);
        let publish = format!("http://{}/{{room}}", self.posts);
        let more = ["--protocol", "websocket", "--viewers", "3", "--count", "20", "--json"];
        let args = [&[&*url, "--publish", &publish], &more[..]].concat();
        let (clean, json, _) = bench(&args, None).await;
        (clean, counts(&json))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_right_is_reported_as_right() {
    let server = Doctored::start(|_, message, _| vec![message]).await;
    assert_eq!(server.found().await, (true, [20, 60, 0, 0, 0, 0, 0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_message_is_reported() {
    let server = Doctored::start(|number, message, _| match number {
        4 => vec![],
        _ => vec![message],
    });
    assert_eq!(server.await.found().await, (false, [20, 57, 3, 0, 0, 0, 0]));
}

/// Nothing comes after it that would show that it is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_last_message_is_reported() {
    let server = Doctored::start(|number, message, _| match number {
        19 => vec![],
        _ => vec![message],
    });
    assert_eq!(server.await.found().await, (false, [20, 57, 3, 0, 0, 0, 0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubled_message_is_reported() {
    let server = Doctored::start(|number, message, _| match number {
        4 => vec![message.clone(), message],
        _ => vec![message],
    });
    assert_eq!(server.await.found().await, (false, [20, 60, 0, 3, 0, 0, 0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reordered_message_is_reported() {
    let server = Doctored::start(|number, message, held| match number {
        4 => {
            held.push(message);
            vec![]
        }
        6 => vec![message, held.remove(0)],
        _ => vec![message],
    });
    assert_eq!(server.await.found().await, (false, [20, 60, 0, 0, 3, 0, 0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_message_is_reported() {
    let server = Doctored::start(|number, message, _| match number {
        4 => vec![message.slice(..50)],
        _ => vec![message],
    });
    assert_eq!(server.await.found().await, (false, [20, 57, 3, 0, 0, 3, 0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn viewers_that_are_cut_off_are_reported() {
    let server = Doctored::start(|number, message, _| match number {
        4 => vec![Bytes::new()],
        5.. => vec![],
        _ => vec![message],
    });
    assert_eq!(server.await.found().await, (false, [20, 12, 48, 0, 0, 0, 3]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_ours_loses_nothing_however_viewers_come() {
    let site = TestServer::start().await;
    let url = format!("http://{}", site.addr);
    let load = ["--viewers", "60", "--rooms", "7", "--rate", "max", "--count", "700", "--json"];
    for more in [&[][..], &["--upgrade"], &["--threads", "3"]] {
        let args = [&[&*url], &load[..], more].concat();
        let (clean, json, _) = bench(&args, Some(&site)).await;
        assert_eq!((clean, counts(&json)), (true, [700, 6000, 0, 0, 0, 0, 0]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_trusted_as_told_and_redirects_are_explained() {
    let files = Files::new("bench", &make(1, 2100));
    let site = files.site().await;
    let url = format!("https://{}", site.https.expect("HTTPS"));
    let root = files.folder.join("cert.pem").to_string_lossy().into_owned();
    let load = ["--viewers", "20", "--rate", "max", "--count", "50", "--json"];
    for trust in [&["--insecure"][..], &["--ca", &root]] {
        let (clean, json, _) = bench(&[&[&*url], &load[..], trust].concat(), Some(&site)).await;
        assert_eq!((clean, counts(&json)), (true, [50, 1000, 0, 0, 0, 0, 0]));
    }
    let (clean, _, error) = bench(&[&*url], Some(&site)).await;
    assert!(!clean && error.contains("--ca"), "{error}");
    let (clean, _, error) = bench(&[&format!("http://{}", site.addr)], Some(&site)).await;
    assert!(!clean && error.contains("it redirects"), "{error}");
    let port = site.addr.port();
    let (clean, _, error) = bench(&[&format!("https://127.0.0.1:{port}")], Some(&site)).await;
    assert!(!clean && error.contains("http:// or https://"), "{error}");
}

/// Who does not read is not counted, and nobody else has to wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_do_not_read_are_counted_apart() {
    // More than may wait for a viewer, so slowly that nobody else can be taken for one.
    let site = TestServer::start_with(|settings| settings.slow_after = "19s".into()).await;
    let url = format!("http://{}", site.addr);
    let load = ["--viewers", "10", "--size", "65536", "--rate", "20", "--count", "110", "--json"];
    let args = [&[&*url, "--stalled", "1", "--slow", "1"], &load[..]].concat();
    let (clean, json, _) = bench(&args, Some(&site)).await;
    assert_eq!((clean, counts(&json)), (true, [110, 880, 0, 0, 0, 0, 0]));
    let found: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(found["hindered"]["closed"], 2, "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_is_told_with_what_to_do() {
    let site = TestServer::start_with(|settings| settings.max_connections = Some("3".into())).await;
    let url = format!("http://{}", site.addr);
    let (clean, _, error) = bench(&[&url, "--viewers", "4", "--hold", "0s"], Some(&site)).await;
    assert!(!clean && error.contains("503") && error.contains("MAX_CONNECTIONS"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_with_what_to_do() {
    let (clean, _, error) = bench(&["http://127.0.0.1:1", "--hold", "0s"], None).await;
    assert!(!clean && error.contains("start it, or check the URL"), "{error}");
}
