//! Redis: subscribe, probe, back off, subscribe again; and publish.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::anyhow;
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
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Gap, GapReason, Message, Sender, now};
use crate::{
    config::{RedisAddress, Transport},
    glob,
    health::Health,
    metrics::Metrics,
};

/// For name lookup, TCP, TLS and AUTH together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// After how long a silence the subscription is probed. With the next line: a connection that is
/// only half there is noticed within 6 s.
const QUIET: Duration = Duration::from_secs(3);
/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long Redis may take to answer a command.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Channels below this are probes, ours and other instances'; no instance shows or keeps them.
const PROBES: &str = "roomcast:probe:";
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
        let pulse = Pulse::new();
        let mut probe = Probe::new(&self.patterns);
        let mut backoff = Backoff::default();
        loop {
            let error = match self.subscribe().await {
                Ok(session) => {
                    backoff = Backoff::default();
                    let gap =
                        Gap { from: pulse.proven(), to: now(), reason: GapReason::SourceLost };
                    self.queue.gap(gap);
                    pulse.beat(now());
                    let error = self.listen(session, &pulse, &mut probe).await;
                    self.metrics.source_up.set(0);
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
        let connect = async {
            let mut session = client(&self.address)?.get_async_pubsub().await?;
            session.psubscribe(&self.patterns).await?;
            Ok(session)
        };
        let session = match timeout(CONNECT_TIMEOUT, connect).await {
            Ok(result) => result.map_err(|error| explain(&self.address, error))?,
            Err(_) => return Err(no_answer(&self.address, CONNECT_TIMEOUT)),
        };
        self.health.subscribed();
        self.metrics.source_up.set(1);
        let reconnects = self.health.source().reconnects;
        if reconnects > 0 {
            self.metrics.reconnects.inc();
        }
        info!(patterns = %self.patterns.join(","), reconnects, "subscribed at Redis {}", self.address);
        Ok(session)
    }

    /// Hands over messages until the subscription is lost, and says why.
    async fn listen(
        &self,
        session: redis::aio::PubSub,
        pulse: &Pulse,
        probe: &mut Probe,
    ) -> anyhow::Error {
        let (sink, mut messages) = session.split();
        let name = probe.channel.clone();
        let hand_over = async {
            while let Some(message) = messages.next().await {
                pulse.beat(now());
                match message.get_channel_name() {
                    channel if channel == name => pulse.echo.notify_one(),
                    channel if channel.starts_with(PROBES) => {}
                    _ => self.accept(message),
                }
            }
            anyhow!("Redis at {} closed the connection", self.address)
        };
        tokio::select! {
            error = hand_over => error,
            error = self.keep_alive(sink, pulse, probe) => error,
        }
    }

    /// Probes whenever it has been quiet, until a probe fails.
    async fn keep_alive(
        &self,
        mut sink: PubSubSink,
        pulse: &Pulse,
        probe: &mut Probe,
    ) -> anyhow::Error {
        loop {
            sleep_until(pulse.last() + QUIET).await;
            if pulse.last().elapsed() < QUIET {
                continue;
            }
            let (begun, sent) = (Instant::now(), now());
            if let Err(error) = self.probe(&mut sink, pulse, probe).await {
                return error;
            }
            self.metrics.round_trip.set(begun.elapsed().as_secs_f64());
            pulse.beat(sent);
        }
    }

    /// Publishes to ourselves, from end to end; asks the subscription's connection alone where
    /// that is not possible.
    async fn probe(
        &self,
        sink: &mut PubSubSink,
        pulse: &Pulse,
        probe: &mut Probe,
    ) -> anyhow::Result<()> {
        if probe.possible {
            match timeout(PROBE_TIMEOUT, probe.publish(&self.address)).await {
                Ok(Ok(())) => {
                    let echo = timeout(PROBE_TIMEOUT, pulse.echo.notified()).await;
                    return echo.map_err(|_| no_answer(&self.address, PROBE_TIMEOUT));
                }
                Ok(Err(error)) if is_denied(&error) => {
                    probe.possible = false;
                    info!("the Redis user may not publish on {PROBES}*: probing by PING instead");
                }
                // Whether only this connection is in trouble, the PING tells.
                Ok(Err(_)) | Err(_) => {}
            }
        }
        match timeout(PROBE_TIMEOUT, sink.ping::<redis::Value>()).await {
            Ok(result) => result.map(drop).map_err(|error| explain(&self.address, error)),
            Err(_) => Err(no_answer(&self.address, PROBE_TIMEOUT)),
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

/// Signs of life of a subscription.
struct Pulse {
    /// When the last one came.
    last: Mutex<Instant>,
    /// Until when nothing is missing, in ms since the Unix epoch.
    proven: AtomicU64,
    /// A probe of ours came back.
    echo: Notify,
}

impl Pulse {
    fn new() -> Self {
        let (last, proven) = (Mutex::new(Instant::now()), AtomicU64::new(now()));
        Self { last, proven, echo: Notify::new() }
    }

    /// Something came that proves that nothing published until `proven` is missing.
    fn beat(&self, proven: u64) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.proven.store(proven, Relaxed);
    }

    fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn proven(&self) -> u64 {
        self.proven.load(Relaxed)
    }
}

/// Publishes to ourselves.
struct Probe {
    channel: String,
    /// Our patterns cover the channel, and nothing speaks against publishing so far.
    possible: bool,
    publisher: Option<Publisher>,
}

impl Probe {
    fn new(patterns: &[String]) -> Self {
        let channel = format!("{PROBES}{:012x}", rand::random::<u64>() >> 16);
        let covers = |pattern: &String| glob::matches(pattern.as_bytes(), channel.as_bytes());
        let possible = patterns.iter().any(covers);
        if !possible {
            info!("REDIS_CHANNELS does not cover {PROBES}*: probing by PING");
        }
        Self { possible, channel, publisher: None }
    }

    async fn publish(&mut self, address: &RedisAddress) -> Result<(), RedisError> {
        let mut publisher = match self.publisher.take() {
            Some(publisher) => publisher,
            None => Publisher::open(address).await?,
        };
        publisher.send(&self.channel, &[]).await?;
        // Kept only as long as it works.
        self.publisher = Some(publisher);
        Ok(())
    }
}

fn is_denied(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
}

/// Publishes on a connection of its own.
pub struct Publisher {
    connection: redis::aio::MultiplexedConnection,
    address: RedisAddress,
}

impl Publisher {
    /// Connects and authenticates.
    pub async fn connect(address: &RedisAddress) -> anyhow::Result<Self> {
        match timeout(CONNECT_TIMEOUT, Self::open(address)).await {
            Ok(result) => result.map_err(|error| explain(address, error)),
            Err(_) => Err(no_answer(address, CONNECT_TIMEOUT)),
        }
    }

    async fn open(address: &RedisAddress) -> Result<Self, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT));
        let client = client(address)?;
        let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(Self { connection, address: address.clone() })
    }

    /// Publishes a payload and returns how many subscribers Redis counted.
    pub async fn publish(&mut self, channel: &str, payload: &[u8]) -> anyhow::Result<u64> {
        self.send(channel, payload).await.map_err(|error| explain(&self.address, error))
    }

    async fn send(&mut self, channel: &str, payload: &[u8]) -> Result<u64, RedisError> {
        redis::cmd("PUBLISH").arg(channel).arg(payload).query_async(&mut self.connection).await
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

fn client(address: &RedisAddress) -> Result<Client, RedisError> {
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
    let target = target.into_connection_info()?;
    let target = target.set_redis_settings(login).set_tcp_settings(tcp);
    Client::open(target)
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
