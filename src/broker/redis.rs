//! Redis: subscribe, probe, back off, subscribe again; and publish.

use std::{io, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use futures_util::StreamExt;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, Msg,
    RedisConnectionInfo, RedisError, ServerErrorKind,
    aio::PubSubSink,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Message, Sender};
use crate::{
    config::{RedisAddress, Transport},
    glob,
    health::Health,
    metrics::Metrics,
};

/// For name lookup, TCP, TLS and AUTH together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the subscription is asked for a sign of life. With the next line: a connection that
/// is only half there is noticed within 8 s.
const PING_EVERY: Duration = Duration::from_secs(3);
/// How long that sign may take.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// The kernel's own probes, for a peer that vanished while we had nothing to send.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// The first pause before trying again; it doubles.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How long whoever listens at the default port has to answer when we look for a Redis there.
const DETECT_TIMEOUT: Duration = Duration::from_secs(1);

/// One subscription for all patterns, for ever.
pub struct Subscription {
    /// Where Redis is.
    pub address: RedisAddress,
    /// Glob patterns, without duplicates.
    pub patterns: Vec<String>,
    /// Where messages and outages go.
    pub queue: Sender,
    /// Who is told how it goes.
    pub health: Arc<Health>,
    /// Who counts.
    pub metrics: Arc<Metrics>,
}

impl Subscription {
    /// Subscribes, and again whenever the subscription is lost, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.watch()).await;
    }

    async fn watch(&self) -> ! {
        let mut backoff = Backoff::default();
        loop {
            let error = match self.subscribe().await {
                Ok(session) => {
                    backoff = Backoff::default();
                    let error = self.listen(session).await;
                    self.metrics.source_up.set(0);
                    self.queue.down();
                    error
                }
                Err(error) => error,
            };
            if self.health.failed(&format!("{error:#}")) {
                warn!("{error:#}; trying again until it works");
            }
            sleep(backoff.next()).await;
        }
    }

    async fn subscribe(&self) -> anyhow::Result<redis::aio::PubSub> {
        let client = client(&self.address)?;
        let connect = async {
            let mut session = client.get_async_pubsub().await?;
            session.psubscribe(&self.patterns).await?;
            Ok(session)
        };
        let session = match timeout(CONNECT_TIMEOUT, connect).await {
            Ok(result) => result.map_err(|error| explain(&self.address, error))?,
            Err(_) => return Err(no_answer(&self.address, CONNECT_TIMEOUT)),
        };
        self.health.subscribed();
        self.metrics.source_up.set(1);
        self.queue.up();
        let reconnects = self.health.source().reconnects;
        if reconnects > 0 {
            self.metrics.reconnects.inc();
        }
        info!(patterns = %self.patterns.join(","), reconnects, "subscribed at Redis {}", self.address);
        Ok(session)
    }

    /// Hands over messages until the subscription is lost, and says why.
    async fn listen(&self, session: redis::aio::PubSub) -> anyhow::Error {
        let (sink, mut messages) = session.split();
        let messages = async {
            while let Some(message) = messages.next().await {
                self.accept(message);
            }
            anyhow!("Redis at {} closed the connection", self.address)
        };
        tokio::select! {
            error = messages => error,
            error = keep_alive(sink, &self.address) => error,
        }
    }

    /// Redis sends a message once for each of our patterns that fits; the first one counts.
    fn accept(&self, message: Msg) {
        let channel = message.get_channel_name().as_bytes();
        let matched = message.get_pattern::<Vec<u8>>().unwrap_or_default();
        let mut earlier = self.patterns.iter().take_while(|pattern| pattern.as_bytes() != matched);
        if !earlier.any(|pattern| glob::matches(pattern.as_bytes(), channel)) {
            let payload = Bytes::copy_from_slice(message.get_payload_bytes());
            self.queue.message(Message::now(Bytes::copy_from_slice(channel), payload));
        }
    }
}

/// Publishes on a connection of its own.
pub struct Publisher {
    connection: redis::aio::MultiplexedConnection,
    address: RedisAddress,
}

impl Publisher {
    /// Connects and authenticates.
    pub async fn connect(address: &RedisAddress) -> anyhow::Result<Self> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(PING_TIMEOUT));
        let connect = client(address)?;
        let connect = connect.get_multiplexed_async_connection_with_config(&config);
        let connection = match timeout(CONNECT_TIMEOUT, connect).await {
            Ok(result) => result.map_err(|error| explain(address, error))?,
            Err(_) => return Err(no_answer(address, CONNECT_TIMEOUT)),
        };
        Ok(Self { connection, address: address.clone() })
    }

    /// Publishes a payload and returns how many subscribers Redis counted.
    pub async fn publish(&mut self, channel: &str, payload: &[u8]) -> anyhow::Result<u64> {
        let mut command = redis::cmd("PUBLISH");
        let command = command.arg(channel).arg(payload);
        let counted = command.query_async(&mut self.connection).await;
        counted.map_err(|error| explain(&self.address, error))
    }
}

/// Whether something at this address speaks RESP; also a Redis that wants a password first.
pub async fn answers(address: &RedisAddress) -> bool {
    let Transport::Tcp { host, port, .. } = &address.transport else { return false };
    let ask = async {
        let mut stream = TcpStream::connect((host.as_str(), *port)).await?;
        stream.write_all(b"*1\r\n$4\r\nPING\r\n").await?;
        let first = stream.read_u8().await?;
        io::Result::Ok(matches!(first, b'+' | b'-'))
    };
    matches!(timeout(DETECT_TIMEOUT, ask).await, Ok(Ok(true)))
}

async fn keep_alive(mut sink: PubSubSink, address: &RedisAddress) -> anyhow::Error {
    loop {
        sleep(PING_EVERY).await;
        match timeout(PING_TIMEOUT, sink.ping::<redis::Value>()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return explain(address, error),
            Err(_) => return no_answer(address, PING_TIMEOUT),
        }
    }
}

/// The pause before the next try: 100 ms doubling to 5 s, each with up to half of it taken off, so
/// that many instances do not come back at once.
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(BACKOFF_MIN)
    }
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let pause = self.0.mul_f64(rand::random_range(0.5..=1.0));
        self.0 = (self.0 * 2).min(BACKOFF_MAX);
        pause
    }
}

fn client(address: &RedisAddress) -> anyhow::Result<Client> {
    let target = match address.transport.clone() {
        Transport::Tcp { host, port, tls: false } => ConnectionAddr::Tcp(host, port),
        Transport::Tcp { host, port, tls: true } => {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        }
        Transport::Unix(path) => ConnectionAddr::Unix(path),
    };
    let mut login = RedisConnectionInfo::default();
    if let Some(username) = &address.username {
        login = login.set_username(username);
    }
    if let Some(password) = &address.password {
        login = login.set_password(password.expose());
    }
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    let target = target.into_connection_info().context("REDISHOST")?;
    let target = target.set_redis_settings(login).set_tcp_settings(tcp);
    Client::open(target).context("REDISHOST")
}

/// One line that says which setting to look at.
fn explain(address: &RedisAddress, error: RedisError) -> anyhow::Error {
    let text = error.to_string();
    let what = match error.kind() {
        _ if text.contains("NOAUTH") => "wants a password: set REDIS_PASSWORD".to_owned(),
        ErrorKind::AuthenticationFailed => {
            "refused the password: check REDIS_PASSWORD and REDIS_USERNAME".to_owned()
        }
        ErrorKind::Server(ServerErrorKind::NoPerm) => format!(
            "does not permit this: check REDIS_CHANNELS and the user's ACL in Redis ({text})"
        ),
        _ if address.is_tls() && (text.contains("ertificate") || text.contains("TLS")) => {
            format!("fails the TLS handshake: check REDISHOST (rediss://) ({text})")
        }
        _ if error.is_io_error() => format!("is out of reach: check REDISHOST ({text})"),
        _ => format!("answers with an error: {text}"),
    };
    anyhow!("Redis at {address} {what}")
}

fn no_answer(address: &RedisAddress, after: Duration) -> anyhow::Error {
    let hint = if address.is_tls() { " and whether it speaks TLS there" } else { "" };
    let after = after.as_secs();
    anyhow!("Redis at {address} gave no answer within {after} s: check REDISHOST{hint}")
}
