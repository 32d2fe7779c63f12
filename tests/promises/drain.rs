//! Draining: the server delivers every message that has arrived, and no client delays its exit.

use http_body_util::{BodyExt, Full};
use hyper::{
    Request,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::support::{Client, Polling, TestServer, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_have_arrived_are_delivered_before_the_server_stops() {
    const MESSAGES: usize = 500;
    let site = TestServer::start().await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect(&site).await;
        client.join("device01").await;
        clients.push(client);
    }
    for message in 0..MESSAGES {
        site.publish("device01", message.to_string()).await;
    }
    site.until_metric("roomcast_messages_total", MESSAGES as u64).await;
    site.stop();
    let expected: Vec<_> = (0..MESSAGES).map(|message| message.to_string()).collect();
    for mut client in clients {
        assert_eq!(client.rest().await, expected);
    }
    site.until("it has stopped", async || site.is_over()).await;
    assert!(TcpStream::connect(site.addr).await.is_err(), "the port is closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_delivered_until_each_viewer_is_closed() {
    const VIEWERS: usize = 60;
    let site = TestServer::start().await;
    let mut viewers = Vec::new();
    for _ in 0..VIEWERS {
        let mut viewer = Client::connect(&site).await;
        viewer.join("device01").await;
        viewers.push(tokio::spawn(async move {
            let messages = viewer.rest().await;
            (messages, viewer.closed)
        }));
    }
    site.stop();
    // Publish one message after the other, as long as each reaches the subscription.
    let publisher = tokio::spawn({
        let site = site.clone();
        async move {
            let mut message = 0;
            while let Ok(1) = site.try_publish("device01", message.to_string()).await {
                message += 1;
            }
        }
    });
    let mut counts = Vec::new();
    for viewer in viewers {
        let (messages, closed) = within("its end", viewer).await.expect("no panic");
        let expected: Vec<_> = (0..messages.len()).map(|message| message.to_string()).collect();
        assert!(
            closed && messages == expected,
            "no message is missing or doubled, and the close comes last"
        );
        counts.push(messages.len());
    }
    within("the end of the source", publisher).await.expect("no panic");
    counts.sort_unstable();
    assert!(counts[0] < counts[VIEWERS - 1] / 2, "closed one after the other: {counts:?}");
    site.until("it has stopped", async || site.is_over()).await;
}

#[tokio::test]
async fn event_streams_and_polling_clients_get_their_backlog_before_the_server_stops() {
    const MESSAGES: usize = 300;
    let site = TestServer::start().await;
    let mut sse = TcpStream::connect(site.addr).await.expect("connected");
    let head = b"GET /events/device01 HTTP/1.1\r\nhost: localhost\r\n\r\n";
    sse.write_all(head).await.expect("sent");
    let polling = KeptAlive::connect(&site).await;
    site.until_metric("roomcast_members", 2).await;
    for message in 0..MESSAGES {
        site.publish("device01", format!("message {message}.")).await;
    }
    site.until_metric("roomcast_deliveries_total", 2 * MESSAGES as u64).await;
    site.stop();
    let mut followed = String::new();
    within("the end", sse.read_to_string(&mut followed)).await.expect("an orderly end");
    let polled = polling.poll_until_the_end().await;
    for message in 0..MESSAGES {
        let expected = format!("message {message}.");
        assert!(followed.contains(&expected), "the event stream lacks {expected}");
        assert!(polled.contains(&expected), "polling lacks {expected}");
    }
    site.until("it has stopped", async || site.is_over()).await;
}

/// A polling client on one kept-alive connection, between two polls.
struct KeptAlive {
    sender: SendRequest<Full<Bytes>>,
    path: String,
}

impl KeptAlive {
    async fn connect(site: &TestServer) -> Self {
        let stream = TcpStream::connect(site.addr).await.expect("connected");
        let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        let path = "/socket.io/?EIO=4&transport=polling".to_owned();
        let mut client = Self { sender, path };
        let open = client.request("GET", "").await.expect("an answer");
        let open: Value = serde_json::from_str(&open[1..]).expect("JSON");
        client.path += &format!("&sid={}", open["sid"].as_str().expect("a sid"));
        for packet in ["40", r#"420["channel","device01"]"#] {
            client.request("POST", packet).await.expect("taken");
        }
        let mut packets = String::new();
        while !packets.contains("430[") {
            packets += &client.request("GET", "").await.expect("an answer");
        }
        client
    }

    async fn poll_until_the_end(mut self) -> String {
        let mut polled = String::new();
        while let Some(packets) = self.request("GET", "").await {
            polled += &packets;
        }
        polled
    }

    /// The answer, or `None` if the connection has ended or the server is stopping.
    async fn request(&mut self, method: &str, body: &str) -> Option<String> {
        self.sender.ready().await.ok()?;
        let request = Request::builder().method(method).uri(&self.path).header("host", "localhost");
        let request = request.body(Full::from(body.to_owned())).expect("a request");
        let answer = within("an answer", self.sender.send_request(request)).await.ok()?;
        let (status, body) = (answer.status(), answer.into_body().collect().await.ok()?);
        status.is_success().then(|| String::from_utf8(body.to_bytes().to_vec()).expect("UTF-8"))
    }
}

#[tokio::test]
async fn a_draining_server_reports_that_it_is_not_ready() {
    // A request whose body never comes delays the exit until the grace is over.
    let site = TestServer::start_with(|settings| settings.grace = "2s".into()).await;
    let mut stalled = Client::connect(&site).await;
    stalled.join("device01").await;
    let hanging = TcpStream::connect(site.addr).await.expect("connected");
    let head = b"POST /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n";
    hanging.writable().await.expect("writable");
    assert_eq!(hanging.try_write(head).expect("sent"), head.len());
    site.until_metric("roomcast_connections", 2).await;
    site.stop();
    site.until("not ready", async || site.get("/readyz").await == (503, "draining\n".into())).await;
    assert_eq!(site.get("/livez").await.0, 200);
    let (code, status) = site.get("/status").await;
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let told = json!([status["draining"], status["ready"], status["redis"]["state"]]);
    assert_eq!((code, told), (200, json!([true, false, "subscribed"])), "the subscription stays");
    site.until("it has stopped", async || site.is_over()).await;
}

#[tokio::test]
async fn a_pending_poll_is_answered() {
    let site = TestServer::start().await;
    let client = Polling::connect(&site).await;
    site.until_metric("roomcast_connections", 0).await;
    let poll = tokio::spawn(async move { client.poll().await });
    site.until_metric("roomcast_connections", 1).await;
    site.stop();
    assert_eq!(within("an answer", poll).await.expect("no panic").0, 503);
    site.until("it has stopped", async || site.is_over()).await;
}

#[tokio::test]
async fn a_client_that_stopped_reading_does_not_delay_the_exit() {
    let site = TestServer::start_with(|settings| settings.grace = "1s".into()).await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small window");
    let mut stalled = Client::connect_over(socket, &site).await;
    stalled.ask(json!(["channel", "device01"])).await;
    let payload = "x".repeat(64 << 10);
    for _ in 0..30 {
        site.publish("device01", &payload).await;
    }
    site.until_metric("roomcast_deliveries_total", 30).await;
    site.stop();
    site.until("it has stopped", async || site.is_over()).await;
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_that_is_behind_gets_its_backlog_before_the_server_stops() {
    const MESSAGES: usize = 900;
    let site = TestServer::start_with(|settings| {
        settings.slow_after = "19s".into();
        settings.grace = "60s".into();
    })
    .await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(64 << 10).expect("a small window");
    let mut behind = Client::connect_over(socket, &site).await;
    behind.join("device01").await;
    let payload = "x".repeat(4096);
    for _ in 0..MESSAGES {
        site.publish("device01", &payload).await;
    }
    site.until_metric("roomcast_deliveries_total", MESSAGES as u64).await;
    site.stop();
    site.until("draining", async || site.get("/readyz").await.0 == 503).await;
    assert_eq!(behind.rest().await.len(), MESSAGES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_grace_is_enough_for_2000_clients() {
    const CLIENTS: usize = 2000;
    let site = TestServer::start_with(|settings| settings.grace = "2s".into()).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Client::connect(&site).await);
    }
    site.stop();
    for client in &mut clients {
        client.rest().await;
    }
    let cut = clients.iter().filter(|client| !client.closed).count();
    assert_eq!(cut, 0, "connections had to be cut");
    site.until("it has stopped", async || site.is_over()).await;
}
