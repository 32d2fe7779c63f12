//! A server for one test, and clients of Engine.IO 4 that build their packets by hand.

use std::{
    collections::VecDeque,
    net::{SocketAddr, TcpListener},
    process::{ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use roomcast::{
    Server,
    config::{Config, RedisAddress, Settings, Transport},
    dev_redis::Embedded,
    redis::Publisher,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, BufReader},
    net::{TcpSocket, TcpStream},
    process::Command,
    sync::{Mutex, oneshot, watch},
    task::JoinHandle,
    time::{interval, timeout},
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};
use tokio_util::sync::CancellationToken;

/// The time limit of each wait; only a failure reaches it.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// How often a condition is polled.
pub const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits for a future, and panics with `what` at the deadline.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// Free ports, for programs that must be given one. They are below 32768, because the kernel hands
/// out those above for connections and for binds to port 0.
pub fn free_ports<const COUNT: usize>() -> [SocketAddr; COUNT] {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    [(); COUNT].map(|()| {
        loop {
            // Start far from the ports of another run of these tests.
            let first = std::process::id().wrapping_mul(499);
            let nth = first.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
            let addr = SocketAddr::from(([127, 0, 0, 1], 10_000 + (nth % 10_000) as u16));
            if TcpListener::bind(addr).is_ok() {
                break addr;
            }
        }
    })
}

/// A running server with an embedded broker.
pub struct TestServer {
    pub addr: SocketAddr,
    pub admin: SocketAddr,
    pub redis: RedisAddress,
    /// The address of the HTTPS listener, if there is one.
    pub https: Option<SocketAddr>,
    publisher: Mutex<Option<Publisher>>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl TestServer {
    pub async fn start() -> Arc<Self> {
        Self::start_with(|_| ()).await
    }

    /// Starts a server with changed settings, and waits until it is subscribed.
    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Arc<Self> {
        let site = Self::start_without_redis(change).await;
        site.until("subscribed", async || site.get("/readyz").await.0 == 200).await;
        site
    }

    /// Starts a server with changed settings, without waiting for the subscription.
    pub async fn start_without_redis(change: impl FnOnce(&mut Settings)) -> Arc<Self> {
        let mut settings = Settings {
            http_addr: "127.0.0.1:0".into(),
            admin_addr: "127.0.0.1:0".into(),
            redishost: Some("embedded:0".into()),
            ..Settings::default()
        };
        change(&mut settings);
        let config = Config::try_from(settings).expect("valid settings");
        let server = Server::bind(config).await.expect("free ports");
        let (addr, admin) =
            (server.local_addr().expect("bound"), server.admin_addr().expect("bound"));
        let https = server.https_addr();
        let (redis, stop) = (server.redis().clone(), CancellationToken::new());
        let running = server.run(stop.clone());
        let running = tokio::spawn(async { running.await.expect("no core task fails") });
        let publisher = Mutex::default();
        Arc::new(Self { addr, admin, redis, https, publisher, stop, running })
    }

    /// Starts the program in its own process.
    pub async fn start_process(settings: &[(&str, &str)]) -> (Arc<Self>, Process) {
        Self::start_process_by(&[], settings).await
    }

    /// Starts the program through another one, which gets its path as the last argument.
    pub async fn start_process_by(by: &[&str], settings: &[(&str, &str)]) -> (Arc<Self>, Process) {
        let words = [by, &[env!("CARGO_BIN_EXE_roomcast")]].concat();
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .env_clear()
            .envs([("HTTP_ADDR", "127.0.0.1:0"), ("ADMIN_ADDR", "127.0.0.1:0")])
            .envs([("REDISHOST", "embedded:0"), ("LOG_FORMAT", "json")])
            .envs(settings.iter().copied())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("runs");
        let mut log = BufReader::new(child.stderr.take().expect("piped")).lines();
        let told = within("its first line", log.next_line()).await.expect("UTF-8").expect("a line");
        let told: Value = serde_json::from_str(&told).expect("JSON");
        let addr = |name: &str| {
            let url = told[name].as_str().expect("an address");
            let addr = url.trim_start_matches("http://").trim_end_matches("/status");
            addr.parse::<SocketAddr>().expect("an address")
        };
        let (redis, stop) = (addr("redis"), CancellationToken::new());
        let redis = RedisAddress::tcp("127.0.0.1", redis.port());
        let pid = child.id().expect("a process");
        let (tell, lines) = watch::channel(String::new());
        let log = tokio::spawn(async move {
            while let Some(line) = log.next_line().await.expect("UTF-8") {
                tell.send_modify(|lines| *lines += &(line + "\n"));
            }
            tell.borrow().clone()
        });
        let (stopped, killed) = (stop.clone(), stop.clone());
        let (tell, status) = oneshot::channel();
        let running = tokio::spawn(async move {
            if killed.run_until_cancelled(child.wait()).await.is_none() {
                child.kill().await.expect("killed");
            }
            // Not every test waits for the exit code.
            let _ = tell.send(child.wait().await.expect("it has ended"));
        });
        let (publisher, https) = (Mutex::default(), None);
        let (addr, admin) = (addr("page"), addr("admin"));
        let site = Arc::new(Self { addr, admin, redis, https, publisher, stop, running });
        site.until("subscribed", async || site.get("/readyz").await.0 == 200).await;
        (site, Process { pid, log, lines, status, stop: stopped })
    }

    pub async fn publish(&self, channel: &str, payload: impl AsRef<[u8]>) {
        self.try_publish(channel, payload).await.expect("published");
    }

    /// Publishes, and returns how many subscribers the broker counted; fails without a broker.
    pub async fn try_publish(
        &self,
        channel: &str,
        payload: impl AsRef<[u8]>,
    ) -> anyhow::Result<u64> {
        let mut kept = self.publisher.lock().await;
        if kept.is_none() {
            *kept = Some(Publisher::connect(&self.redis).await?);
        }
        let publisher = kept.as_mut().expect("connected");
        publisher.publish(channel, payload.as_ref()).await
    }

    /// The address of the broker, unless it is a Unix socket.
    pub fn redis_addr(&self) -> Option<SocketAddr> {
        let Transport::Tcp { port, .. } = &self.redis.transport else { return None };
        Some(([127, 0, 0, 1], *port).into())
    }

    /// Sends the broker a command whose answer is a number.
    pub async fn command(&self, words: &[&[u8]]) -> u64 {
        let Transport::Tcp { host, port, .. } = &self.redis.transport else { unreachable!("TCP") };
        let client = redis::Client::open((host.as_str(), *port)).expect("an address");
        let mut connection = client.get_multiplexed_async_connection().await.expect("connected");
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(word);
        }
        command.query_async(&mut connection).await.expect("a number")
    }

    /// Makes the broker close the server's subscription.
    pub async fn kill_subscription(&self) {
        assert_eq!(self.command(&[b"CLIENT", b"KILL", b"TYPE", b"pubsub"]).await, 1);
    }

    /// Sends a GET request to the admin listener.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let (status, body) = request(self.admin, "GET", path, "").await;
        (status, String::from_utf8(body.to_vec()).expect("UTF-8"))
    }

    /// The value of one series of `/metrics`, by its full name.
    pub async fn metric(&self, series: &str) -> u64 {
        let (_, text) = self.get("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in {text}")).parse().expect("a whole number")
    }

    /// Waits until a series has this value.
    pub async fn until_metric(&self, series: &str, value: u64) {
        self.until(&format!("{series} is {value}"), async || self.metric(series).await == value)
            .await;
    }

    /// Polls a condition until it holds.
    pub async fn until(&self, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        let mut looks = interval(LOOK_EVERY);
        within(what, async {
            while !condition().await {
                looks.tick().await;
            }
        })
        .await;
    }

    /// Begins the shutdown of the server.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether the server has stopped.
    pub fn is_over(&self) -> bool {
        self.running.is_finished()
    }
}

/// A server's process.
pub struct Process {
    pub pid: u32,
    log: JoinHandle<String>,
    lines: watch::Receiver<String>,
    status: oneshot::Receiver<ExitStatus>,
    stop: CancellationToken,
}

impl Process {
    /// Sends the process a signal, by name (`TERM`).
    pub async fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        let sent =
            kill.args(["-s", name, &self.pid.to_string()]).status().await.expect("kill runs");
        assert!(sent.success(), "no such process");
    }

    /// Waits until the log contains this text.
    pub async fn told(&self, text: &str) {
        let mut lines = self.lines.clone();
        let told = within(text, lines.wait_for(|lines| lines.contains(text))).await;
        assert!(told.is_ok(), "no `{text}` in {}", self.lines.borrow().clone());
    }

    /// Waits until the process has exited by itself; returns its exit code and its log.
    pub async fn end(self) -> (Option<i32>, String) {
        let status = within("the end of the process", self.status).await.expect("a status");
        (status.code(), within("the end of its log", self.log).await.expect("a log"))
    }

    /// Kills the process, and returns its log.
    pub async fn stop(self) -> String {
        self.stop.cancel();
        within("the end of its log", self.log).await.expect("a log")
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// An embedded broker beside the server, which a test can stop and start again.
pub struct Redis {
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Redis {
    pub async fn start(port: u16) -> Self {
        let embedded = Embedded::bind(port).await.expect("a free port");
        let stop = CancellationToken::new();
        let running = tokio::spawn(embedded.run(stop.clone()));
        Self { stop, running }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        within("Redis ends", self.running).await.expect("in an orderly way");
    }
}

/// Sends one HTTP request on a new connection; returns the status and the body.
pub async fn request(addr: SocketAddr, method: &str, path: &str, body: &str) -> (u16, Bytes) {
    Http::connect(addr).await.send(method, path, body).await
}

/// An HTTP connection that is kept alive.
pub struct Http {
    sender: http1::SendRequest<Full<Bytes>>,
    /// The client's address, if this is the connection of a proxy.
    pub forwarded_for: Option<String>,
}

impl Http {
    /// Connects to a listener.
    pub async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.expect("connected");
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        Self { sender, forwarded_for: None }
    }

    /// Sends a request; returns the status and the body.
    pub async fn send(&mut self, method: &str, path: &str, body: &str) -> (u16, Bytes) {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if let Some(client) = &self.forwarded_for {
            request = request.header("x-forwarded-for", client);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes())));
        self.sender.ready().await.expect("kept alive");
        let request = request.expect("a request");
        let response = self.sender.send_request(request).await.expect("a response");
        let status = response.status().as_u16();
        (status, response.into_body().collect().await.expect("a body").to_bytes())
    }
}

/// The path of Engine.IO's handshake for a session that is polled.
pub const POLLING: &str = "/socket.io/?EIO=4&transport=polling";

/// The sid in Engine.IO's first packet.
pub fn sid(open: &str) -> String {
    let open: Value = serde_json::from_str(&open[1..]).expect("JSON");
    open["sid"].as_str().expect("a sid").to_owned()
}

/// A Socket.IO client over polling.
pub struct Polling {
    addr: SocketAddr,
    /// The path of its requests, with its sid.
    pub path: String,
    /// The client's address, if a proxy sends the requests.
    forwarded_for: Option<String>,
}

impl Polling {
    /// Connects to the namespace. The next poll waits for a message.
    pub async fn connect(site: &TestServer) -> Self {
        Self::connect_from(site, None).await
    }

    /// The same for a client behind a proxy.
    pub async fn connect_from(site: &TestServer, forwarded_for: Option<&str>) -> Self {
        let forwarded_for = forwarded_for.map(str::to_owned);
        let mut client = Self { addr: site.addr, path: POLLING.to_owned(), forwarded_for };
        let (_, open) = client.request("GET", "").await;
        client.path = format!("{POLLING}&sid={}", sid(&open));
        client.post("40").await;
        assert!(client.poll().await.1.starts_with("40{"));
        client
    }

    pub async fn post(&self, packets: &str) -> u16 {
        self.request("POST", packets).await.0
    }

    pub async fn poll(&self) -> (u16, String) {
        self.request("GET", "").await
    }

    async fn request(&self, method: &str, body: &str) -> (u16, String) {
        let mut http = Http::connect(self.addr).await;
        http.forwarded_for = self.forwarded_for.clone();
        let (status, packets) = http.send(method, &self.path, body).await;
        (status, String::from_utf8(packets.to_vec()).expect("UTF-8"))
    }
}

/// A Socket.IO client over a WebSocket.
pub struct Client<S = TcpStream> {
    socket: WebSocketStream<S>,
    /// Events that arrived while the test waited for something else.
    events: VecDeque<Value>,
    asked: u64,
    /// Whether the server has sent a close frame.
    pub closed: bool,
}

impl Client {
    /// Connects to the namespace.
    pub async fn connect(site: &TestServer) -> Self {
        Self::connect_over(TcpSocket::new_v4().expect("a socket"), site).await
    }

    /// Connects to the namespace over a socket whose options the test has set.
    pub async fn connect_over(socket: TcpSocket, site: &TestServer) -> Self {
        let mut client = Self::open(socket, site).await;
        client.enter().await;
        client
    }

    /// Opens the WebSocket without connecting to the namespace.
    pub async fn open(socket: TcpSocket, site: &TestServer) -> Self {
        let stream = within("TCP", socket.connect(site.addr)).await.expect("connected");
        Self::upgrade(stream).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Opens the WebSocket over an existing stream.
    pub async fn upgrade(stream: S) -> Self {
        let url = "ws://localhost/socket.io/?EIO=4&transport=websocket";
        let (socket, _) = within("WebSocket", client_async(url, stream)).await.expect("upgraded");
        Self { socket, events: VecDeque::new(), asked: 0, closed: false }
    }

    /// Connects to the namespace.
    pub async fn enter(&mut self) {
        assert!(self.packet().await.starts_with("0{"), "Engine.IO opens");
        self.send("40").await;
        assert!(self.packet().await.starts_with("40{"), "Socket.IO connects");
    }

    pub async fn send(&mut self, packet: &str) {
        within("sent", self.socket.send(Message::text(packet))).await.expect("sent");
    }

    /// Sends a packet `times` times, or until the server has closed the connection.
    pub async fn flood(&mut self, packet: &str, times: usize) {
        for _ in 0..times {
            if within("sent", self.socket.send(Message::text(packet))).await.is_err() {
                return;
            }
        }
    }

    /// Emits an event without requesting an acknowledgement.
    pub async fn emit(&mut self, event: Value) {
        self.send(&format!("42{event}")).await;
    }

    /// Emits an event and waits for its acknowledgement.
    pub async fn ask(&mut self, event: Value) -> Value {
        let id = self.asked;
        self.asked += 1;
        self.send(&format!("42{id}{event}")).await;
        let head = format!("43{id}[");
        loop {
            let packet = self.packet().await;
            if packet.starts_with(&head) {
                let answer: Value = serde_json::from_str(&packet[head.len() - 1..]).expect("JSON");
                return answer[0].clone();
            }
            self.keep(&packet);
        }
    }

    /// Joins a room and returns the acknowledgement.
    pub async fn join(&mut self, room: &str) -> Value {
        let answer = self.ask(json!(["channel", room])).await;
        assert_eq!(answer["ok"], true, "{answer}");
        answer
    }

    /// The next event, as an array that begins with its name.
    pub async fn event(&mut self) -> Value {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            let packet = self.packet().await;
            self.keep(&packet);
        }
    }

    /// Takes the events that arrived while the test waited for something else.
    pub fn arrived(&mut self) -> Vec<Value> {
        self.events.drain(..).collect()
    }

    /// The payload of the next event `message`.
    pub async fn message(&mut self) -> String {
        let event = self.event().await;
        assert_eq!(event[0], "message", "{event}");
        event[1].as_str().expect("a string").to_owned()
    }

    /// The next binary attachment.
    pub async fn attachment(&mut self) -> Bytes {
        match within("a frame", self.socket.next()).await {
            Some(Ok(Message::Binary(bytes))) => bytes,
            other => panic!("{other:?} is no attachment"),
        }
    }

    /// The next packet that is no heartbeat. Heartbeats are answered.
    pub async fn packet(&mut self) -> String {
        within("a packet", self.next()).await.expect("a packet before the end")
    }

    /// Reads until the connection ends, and returns the messages before that.
    pub async fn rest(&mut self) -> Vec<String> {
        within("the end", async {
            while let Some(packet) = self.next().await {
                self.keep(&packet);
            }
        })
        .await;
        let payload = |event: Value| event[1].as_str().map(str::to_owned);
        self.events.drain(..).filter_map(payload).collect()
    }

    /// Answers heartbeats until the connection ends.
    pub async fn stay(mut self) {
        while self.next().await.is_some() {}
    }

    async fn next(&mut self) -> Option<String> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) if text.as_str() == "2" => {
                    self.socket.send(Message::text("3")).await.ok()?;
                }
                Some(Ok(Message::Text(text))) => return Some(text.as_str().to_owned()),
                Some(Ok(Message::Close(_))) => {
                    self.closed = true;
                    return None;
                }
                Some(Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    fn keep(&mut self, packet: &str) {
        // `45…-` announces attachments; `1` is the close packet of Engine.IO.
        if let Some(event) = packet.strip_prefix("42") {
            self.events.push_back(serde_json::from_str(event).expect("JSON"));
        }
    }
}
