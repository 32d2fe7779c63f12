//! Redis: subscribe, probe, back off, subscribe again; and publish.

use std::{sync::Arc, time::Duration};

use anyhow::anyhow;
use bytes::Bytes;
use futures_util::StreamExt;
use redis::{Msg, aio::PubSubSink};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Gap, GapReason, Message, Sender, now};
use crate::{config::RedisAddress, glob, health::Health, metrics::Metrics};

mod connection;
mod inspect;
mod link;
mod probe;
mod publisher;

use connection::{CONNECT_TIMEOUT, client, explain, no_answer};
use probe::{Probe, Pulse, is_denied};

pub use connection::answers;
pub use inspect::{BufferLimit, Echo, Inspection, inspect};
pub use link::{Link, RETRY_AFTER};
pub use probe::PROBES;
pub use publisher::Publisher;

/// After how long a silence the subscription is probed. With the next line, for publishing and for
/// the echo: a connection that is only half there is noticed within 9 s.
const QUIET: Duration = Duration::from_secs(3);
/// How long each step of a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// The first pause before trying again; it doubles.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

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
                    let begun = Instant::now();
                    let gap =
                        Gap { from: pulse.proven(), to: now(), reason: GapReason::SourceLost };
                    self.queue.gap(gap);
                    pulse.beat(now());
                    let error = self.listen(session, &pulse, &mut probe).await;
                    self.metrics.source_up.set(0);
                    // Not at once: a Redis that lets us in and throws us out is a Redis in trouble.
                    if begun.elapsed() > BACKOFF_MAX {
                        backoff = Backoff::default();
                    }
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
        let ours = probe.channel.clone();
        let hand_over = async {
            while let Some(message) = messages.next().await {
                pulse.beat(now());
                let channel = message.get_channel_name();
                if channel == ours {
                    pulse.echo.notify_one();
                } else if !channel.starts_with(PROBES) {
                    self.accept(message);
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
        let channel = message.get_channel::<Bytes>().unwrap_or_default();
        let matched = message.get_pattern::<Vec<u8>>().unwrap_or_default();
        let mut earlier = self.patterns.iter().take_while(|pattern| pattern.as_bytes() != matched);
        if !earlier.any(|pattern| glob::matches(pattern.as_bytes(), &channel)) {
            let payload = Bytes::copy_from_slice(message.get_payload_bytes());
            self.queue.message(Message::now(channel, payload));
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
