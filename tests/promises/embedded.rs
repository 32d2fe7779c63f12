//! What the development broker promises, tested over TCP and with a stock client.

use std::future::Future;
use std::time::Duration;

use futures_util::StreamExt;
use redis::AsyncTypedCommands;
use roomcast::dev_redis::Embedded;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Only a test that fails takes this long.
const DEADLINE: Duration = Duration::from_secs(60);

async fn soon<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, event).await.expect("in time")
}

/// A broker of its own for each test.
struct Server {
    port: u16,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let embedded = Embedded::bind(0).await.expect("a free port");
        let (port, stop) = (embedded.port(), CancellationToken::new());
        let task = tokio::spawn(embedded.run(stop.clone()));
        Self { port, stop, task }
    }

    async fn connect(&self) -> Raw {
        Raw(TcpStream::connect(("127.0.0.1", self.port)).await.expect("connected"))
    }

    fn client(&self, query: &str) -> redis::Client {
        redis::Client::open(format!("redis://127.0.0.1:{}/{query}", self.port)).expect("a good URL")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A client that compares raw bytes.
struct Raw(TcpStream);

impl Raw {
    async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        soon(self.0.write_all(bytes.as_ref())).await.expect("written");
    }

    /// Sends a command whose words are separated by spaces.
    async fn send(&mut self, command: &str) {
        self.write(request(command)).await;
    }

    /// Reads `size` bytes, or fewer if the server closes the connection before.
    async fn read(&mut self, size: usize) -> String {
        let mut bytes = Vec::with_capacity(size);
        let mut limited = (&mut self.0).take(size as u64);
        let _ = soon(limited.read_to_end(&mut bytes)).await;
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Reads exactly these bytes.
    async fn expect(&mut self, expected: &str) {
        assert_eq!(self.read(expected.len()).await, expected);
    }

    async fn ask(&mut self, command: &str, expected: &str) {
        self.send(command).await;
        self.expect(expected).await;
    }

    /// Reads until the server closes.
    async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        // The server may also reset the connection: it does not read on after a protocol error.
        let _ = soon(self.0.read_to_end(&mut rest)).await;
        String::from_utf8_lossy(&rest).into_owned()
    }
}

fn request(command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    let bulks = words.iter().map(|word| bulk(word));
    format!("*{}\r\n{}", words.len(), bulks.collect::<String>())
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// An array (`*`) or push (`>`) of strings and, if there is one, a number at the end.
fn list(mark: char, strings: &[&str], number: Option<usize>) -> String {
    let bulks: String = strings.iter().map(|text| bulk(text)).collect();
    let count = strings.len() + usize::from(number.is_some());
    let number = number.map(|number| format!(":{number}\r\n")).unwrap_or_default();
    format!("{mark}{count}\r\n{bulks}{number}")
}

#[tokio::test]
async fn a_resp2_subscriber_gets_what_redis_would_send() {
    let server = Server::start().await;
    let (mut viewer, mut device) = (server.connect().await, server.connect().await);
    viewer.ask("SUBSCRIBE a b", &list('*', &["subscribe", "a"], Some(1))).await;
    viewer.expect(&list('*', &["subscribe", "b"], Some(2))).await;
    viewer.ask("SUBSCRIBE a", &list('*', &["subscribe", "a"], Some(2))).await;
    viewer.ask("PSUBSCRIBE [a-c]", &list('*', &["psubscribe", "[a-c]"], Some(3))).await;

    device.ask("PUBLISH a 1", ":2\r\n").await;
    device.ask("PUBLISH c 2", ":1\r\n").await;
    device.ask("PUBLISH d 3", ":0\r\n").await;
    viewer.expect(&list('*', &["message", "a", "1"], None)).await;
    viewer.expect(&list('*', &["pmessage", "[a-c]", "a", "1"], None)).await;
    viewer.expect(&list('*', &["pmessage", "[a-c]", "c", "2"], None)).await;

    viewer.ask("PING", &list('*', &["pong", ""], None)).await;
    viewer.ask("PING hi", &list('*', &["pong", "hi"], None)).await;
    let allowed =
        "only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context";
    viewer.ask("PUBLISH a 4", &format!("-ERR Can't execute 'publish': {allowed}\r\n")).await;
    viewer.ask("CLIENT ID", &format!("-ERR Can't execute 'client|id': {allowed}\r\n")).await;

    viewer.ask("UNSUBSCRIBE a x", &list('*', &["unsubscribe", "a"], Some(2))).await;
    viewer.expect(&list('*', &["unsubscribe", "x"], Some(2))).await;
    viewer.ask("UNSUBSCRIBE", &list('*', &["unsubscribe", "b"], Some(1))).await;
    viewer.ask("UNSUBSCRIBE", "*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:1\r\n").await;
    viewer.ask("PUNSUBSCRIBE", &list('*', &["punsubscribe", "[a-c]"], Some(0))).await;
    viewer.ask("PUNSUBSCRIBE", "*3\r\n$12\r\npunsubscribe\r\n$-1\r\n:0\r\n").await;
    viewer.ask("PING", "+PONG\r\n").await;
    device.ask("PUBLISH a 5", ":0\r\n").await;
}

#[tokio::test]
async fn a_resp3_subscriber_gets_pushes_and_may_send_any_command() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.send("HELLO 3 AUTH somebody secret SETNAME desk").await;
    // The entries of a map may come in any order.
    let entries = [
        bulk("server") + &bulk("redis"),
        bulk("version") + &bulk("7.2.0"),
        bulk("proto") + ":3\r\n",
        bulk("id") + ":1\r\n",
        bulk("mode") + &bulk("standalone"),
        bulk("role") + &bulk("master"),
        bulk("modules") + "*0\r\n",
    ];
    client.expect("%7\r\n").await;
    let hello = client.read(entries.concat().len()).await;
    assert!(entries.iter().all(|entry| hello.contains(entry)), "{hello:?}");
    client.ask("CLIENT GETNAME", &bulk("desk")).await;

    client.ask("SUBSCRIBE a", &list('>', &["subscribe", "a"], Some(1))).await;
    client.ask("PSUBSCRIBE *", &list('>', &["psubscribe", "*"], Some(2))).await;
    client.ask("PUBLISH a 1", &list('>', &["message", "a", "1"], None)).await;
    client.expect(&list('>', &["pmessage", "*", "a", "1"], None)).await;
    client.expect(":2\r\n").await;
    client.ask("PING", "+PONG\r\n").await;
    client.ask("PUBSUB NUMSUB a b", "*4\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n:0\r\n").await;
    client.ask("PUBSUB NUMPAT", ":1\r\n").await;
    client.ask("PUBSUB CHANNELS", &list('*', &["a"], None)).await;
    client.ask("PUBSUB CHANNELS b*", "*0\r\n").await;

    client.ask("RESET", "+RESET\r\n").await;
    client.ask("CLIENT GETNAME", "$-1\r\n").await;
    client.ask("UNSUBSCRIBE", "*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n").await;
    client.ask("PUBLISH a 2", ":0\r\n").await;
}

#[tokio::test]
async fn errors_have_the_text_of_redis() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    for (command, error) in [
        ("GET key", "ERR unknown command 'GET', with args beginning with: 'key' "),
        ("a\r\nb", "ERR unknown command 'a  b', with args beginning with: "),
        ("PUBLISH a", "ERR wrong number of arguments for 'publish' command"),
        ("subscribe", "ERR wrong number of arguments for 'subscribe' command"),
        ("PING a b", "ERR wrong number of arguments for 'ping' command"),
        ("CLIENT SETNAME", "ERR wrong number of arguments for 'client|setname' command"),
        ("CLIENT NOPE", "ERR unknown subcommand 'NOPE'. Try CLIENT HELP."),
        ("HELLO 4", "NOPROTO unsupported protocol version"),
        ("HELLO x", "ERR Protocol version is not an integer or out of range"),
        ("HELLO 3 SETNAME", "ERR Syntax error in HELLO option 'SETNAME'"),
    ] {
        client.ask(command, &format!("-{error}\r\n")).await;
    }
    client.ask("PING", "+PONG\r\n").await;
}

#[tokio::test]
async fn requests_may_arrive_in_any_fragments() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    for byte in request("ECHO piecemeal").bytes() {
        client.write([byte]).await;
    }
    client.expect(&bulk("piecemeal")).await;
    client.write("*0\r\n*-1\r\n".to_owned() + &request("ECHO 1") + &request("ECHO 2")).await;
    client.expect(&(bulk("1") + &bulk("2"))).await;
    let large = "x".repeat(1_000_000);
    client.ask(&format!("ECHO {large}"), &bulk(&large)).await;
    client.ask("QUIT", "+OK\r\n").await;
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn malformed_and_hostile_frames_close_only_their_connection() {
    let server = Server::start().await;
    let mut bystander = server.connect().await;
    bystander.ask("PING", "+PONG\r\n").await;
    for (frame, reason) in [
        ("POST / HTTP/1.1\r\n".to_owned(), "expected '*'"),
        ("*1\r\n".repeat(200_000), "expected '$'"),
        ("*1\r\n:1\r\n".to_owned(), "expected '$'"),
        ("*x\r\n".to_owned(), "invalid multibulk length"),
        ("*1".repeat(20), "invalid multibulk length"),
        ("*2147483647\r\n".to_owned(), "too many arguments"),
        ("*1\r\n$-1\r\n".to_owned(), "invalid bulk length"),
        ("*1\r\n$9223372036854775807\r\n".to_owned(), "request too large"),
        (format!("*3\r\n{}", bulk(&"x".repeat(600_000)).repeat(2)), "request too large"),
        ("*1\r\n$4\r\nPINGPONG".to_owned(), "expected CRLF after a bulk string"),
    ] {
        let mut client = server.connect().await;
        // The server may close the connection before all of it is written.
        let _ = soon(client.0.write_all(frame.as_bytes())).await;
        let answer = client.rest().await;
        // Unread bytes make the kernel send a reset, which can overtake the error.
        let told = format!("-ERR Protocol error: {reason}\r\n");
        assert!(answer == told || answer.is_empty() && frame.len() > 1_000, "{reason}: {answer:?}");
    }
    bystander.ask("PING", "+PONG\r\n").await;
}

#[tokio::test]
async fn a_vanished_client_leaves_no_subscription() {
    let server = Server::start().await;
    let (mut viewer, mut device) = (server.connect().await, server.connect().await);
    viewer.ask("SUBSCRIBE a", &list('*', &["subscribe", "a"], Some(1))).await;
    viewer.ask("PSUBSCRIBE *", &list('*', &["psubscribe", "*"], Some(2))).await;
    device.ask("PUBLISH a 1", ":2\r\n").await;
    drop(viewer);
    soon(async {
        loop {
            device.send("PUBLISH a 2").await;
            if device.read(4).await == ":0\r\n" {
                break;
            }
        }
    })
    .await;
    device.ask("PUBSUB NUMPAT", ":0\r\n").await;
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_is_disconnected_without_delaying_others() {
    let server = Server::start().await;
    let (mut sleeper, mut viewer) = (server.connect().await, server.connect().await);
    sleeper.ask("SUBSCRIBE a", &list('*', &["subscribe", "a"], Some(1))).await;
    viewer.ask("SUBSCRIBE a", &list('*', &["subscribe", "a"], Some(1))).await;
    let mut device = server.connect().await;
    let payload = "x".repeat(1_000_000);
    let message = list('*', &["message", "a", &payload], None);
    soon(async {
        loop {
            device.send(&format!("PUBLISH a {payload}")).await;
            let receivers = device.read(4).await;
            viewer.expect(&message).await;
            if receivers == ":1\r\n" {
                break;
            }
        }
    })
    .await;
    // The client still reads what the kernel had buffered. The connection ends well before all
    // messages were delivered.
    assert!(sleeper.rest().await.len() < 32 << 20);
}

#[tokio::test]
async fn subscriptions_and_names_are_bounded() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let names: Vec<String> = (0..4096).map(|number| format!("c{number}")).collect();
    client.send(&format!("SUBSCRIBE {}", names.join(" "))).await;
    for (index, name) in names.iter().enumerate() {
        client.expect(&list('*', &["subscribe", name], Some(index + 1))).await;
    }
    let refused = "-ERR too many subscriptions: a client may have 4096\r\n";
    client.ask("PSUBSCRIBE *", refused).await;
    client.ask("UNSUBSCRIBE c7", &list('*', &["unsubscribe", "c7"], Some(4095))).await;
    client.ask("PSUBSCRIBE *", &list('*', &["psubscribe", "*"], Some(4096))).await;
    let refused = "-ERR name too long: the development broker takes 1024 bytes\r\n";
    client.ask(&format!("SUBSCRIBE {}", "x".repeat(1025)), refused).await;
}

#[tokio::test]
async fn kills_clients_by_type_and_id() {
    let server = Server::start().await;
    let (mut admin, mut viewer) = (server.connect().await, server.connect().await);
    let mut other = server.connect().await;
    other.ask("PING", "+PONG\r\n").await;
    viewer.ask("SUBSCRIBE a", &list('*', &["subscribe", "a"], Some(1))).await;
    admin.ask("CLIENT KILL TYPE pubsub", ":1\r\n").await;
    admin.ask("PUBLISH a 1", ":0\r\n").await;
    assert_eq!(viewer.rest().await, "");

    other.send("CLIENT ID").await;
    let answer = other.read(4).await;
    let id = answer.trim_start_matches(':').trim_end();
    admin.ask(&format!("CLIENT KILL ID {id}"), ":1\r\n").await;
    assert_eq!(other.rest().await, "");
    admin.ask(&format!("CLIENT KILL ID {id}"), ":0\r\n").await;
}

#[tokio::test]
async fn stops_on_cancellation() {
    let mut server = Server::start().await;
    let mut client = server.connect().await;
    client.ask("PING", "+PONG\r\n").await;
    server.stop.cancel();
    soon(&mut server.task).await.expect("no panic");
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn a_taken_port_is_an_error() {
    let server = Server::start().await;
    let error = Embedded::bind(server.port).await.expect_err("taken");
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn the_redis_crate_gets_every_message_in_order() {
    let server = Server::start().await;
    let (mut sink, mut stream) =
        soon(server.client("").get_async_pubsub()).await.expect("connected").split();
    soon(sink.psubscribe("device*")).await.expect("subscribed");

    let (sender, mut pushes) = tokio::sync::mpsc::unbounded_channel();
    let config = redis::AsyncConnectionConfig::new().set_push_sender(sender);
    let resp3 = server.client("?protocol=resp3");
    let mut resp3 =
        soon(resp3.get_multiplexed_async_connection_with_config(&config)).await.expect("connected");
    soon(resp3.subscribe("device01")).await.expect("subscribed");
    let confirmed = soon(pushes.recv()).await.expect("a push");
    assert_eq!(confirmed.kind, redis::PushKind::Subscribe);

    let mut device =
        soon(server.client("").get_multiplexed_async_connection()).await.expect("connected");
    for number in 0..1_000_u32 {
        let receivers = soon(device.publish("device01", number.to_string())).await;
        assert_eq!(receivers.expect("published"), 2);
    }
    for number in 0..1_000_u32 {
        let message = soon(stream.next()).await.expect("a message");
        assert_eq!(message.get_channel_name(), "device01");
        assert_eq!(message.get_payload_bytes(), number.to_string().as_bytes());
        let push = soon(pushes.recv()).await.expect("a push");
        let message = redis::Msg::from_push_info(push).expect("a message");
        assert_eq!(message.get_payload_bytes(), number.to_string().as_bytes());
    }
}
