//! `roomcast bench` is an instrument: it must report each fault of a server, and invent none.

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

/// Runs `roomcast bench` to its end: whether its exit code is 0, its stdout and its stderr.
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

/// A server that delivers what is posted to it over WebSockets, with an injected fault.
struct Doctored {
    posts: SocketAddr,
    viewers: SocketAddr,
}

/// The fault: for each posted message, which messages to deliver now. It may keep messages in
/// `held` for later. An empty message closes the WebSockets.
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
                        message = messages.recv() => match message.expect("a message") {
                            // An empty message closes the WebSocket.
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

    /// The result of publishing 20 messages to 3 viewers of one room: whether the exit code is 0,
    /// and the counts.
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
async fn a_correct_server_is_reported_without_faults() {
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

/// No later message reveals this loss.
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
async fn closed_connections_are_reported() {
    let server = Doctored::start(|number, message, _| match number {
        4 => vec![Bytes::new()],
        5.. => vec![],
        _ => vec![message],
    });
    assert_eq!(server.await.found().await, (false, [20, 12, 48, 0, 0, 0, 3]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roomcast_loses_nothing_whichever_way_viewers_connect() {
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
async fn the_configured_root_is_trusted_and_redirects_are_explained() {
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

/// Viewers that do not read are left out of the counts, and the run does not wait for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn viewers_that_do_not_read_are_counted_separately() {
    // More than the backlog limit of a viewer, at a rate at which no other viewer falls behind.
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
async fn a_full_server_is_reported_with_a_remedy() {
    let site = TestServer::start_with(|settings| settings.max_connections = Some("3".into())).await;
    let url = format!("http://{}", site.addr);
    let (clean, _, error) = bench(&[&url, "--viewers", "4", "--hold", "0s"], Some(&site)).await;
    assert!(!clean && error.contains("503") && error.contains("MAX_CONNECTIONS"), "{error}");
}

#[tokio::test]
async fn an_unreachable_server_is_reported_with_a_remedy() {
    let (clean, _, error) = bench(&["http://127.0.0.1:1", "--hold", "0s"], None).await;
    assert!(!clean && error.contains("start it, or check the URL"), "{error}");
}
