//! One connection for everybody who publishes over HTTP, made anew when it is lost.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::anyhow;
use tokio::{
    sync::OnceCell,
    time::{Instant, timeout},
};
use tracing::warn;

use super::{
    Publisher,
    connection::{explain, no_answer},
};
use crate::{config::RedisAddress, health::Health, log_limit::LogLimit};

/// From the request to Redis' answer, a connection included: callers that wait longer have often
/// given up themselves.
const DEADLINE: Duration = Duration::from_secs(5);
/// Connections are made at most so often; what is published meanwhile fails at once.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Log lines about it, a minute: publishers may try as often as they like.
static REFUSED: LogLimit = LogLimit::new(1);

/// The way to Redis for many publishers, who never wait for long. Nothing is published again of
/// which Redis could have heard: better told that it failed than twice.
pub struct Link {
    address: RedisAddress,
    /// Publish where the subscription is, not where the name leads by now.
    at_source: bool,
    health: Arc<Health>,
    current: Mutex<Arc<Attempt>>,
}

/// One connection: asked for, there, or lost.
struct Attempt {
    begun: Instant,
    /// Subscriptions made again before. One more means that Redis was away, and that this
    /// connection is lost too: also if nobody has used it since.
    reconnects: u64,
    /// All who come while it is being made wait for it; what is wrong is told to all of them.
    publisher: OnceCell<Result<Publisher, String>>,
    broken: AtomicBool,
}

impl Link {
    /// A link that connects when something is published: to `publish_host`, or to the server of
    /// `source` that is watched.
    pub fn new(
        source: RedisAddress,
        publish_host: Option<RedisAddress>,
        health: Arc<Health>,
    ) -> Self {
        let current = Mutex::new(Attempt::new(health.reconnects()));
        let at_source = publish_host.is_none();
        Self { address: publish_host.unwrap_or(source), at_source, health, current }
    }

    /// Publishes and returns how many subscribers Redis counted.
    pub async fn publish(&self, channel: &str, payload: &[u8]) -> anyhow::Result<u64> {
        let attempt = self.attempt();
        let publishing = async {
            let connect = async || {
                let peer = self.health.source().server.peer.filter(|_| self.at_source);
                let connected = Publisher::connect_to(&self.address, peer).await;
                connected.map_err(|error| format!("{error:#}"))
            };
            let publisher = attempt.publisher.get_or_init(connect).await;
            let mut publisher = publisher.clone().map_err(|problem| anyhow!(problem))?;
            publisher.send(channel, payload).await.map_err(|error| {
                if error.is_unrecoverable_error() || error.is_timeout() {
                    attempt.broken.store(true, Relaxed);
                }
                explain(&self.address, error)
            })
        };
        let published = timeout(DEADLINE, publishing).await;
        let published = published.unwrap_or_else(|_| {
            attempt.broken.store(true, Relaxed);
            Err(no_answer(&self.address))
        });
        published.inspect_err(|error| {
            let error = format!("{error:#}");
            REFUSED.line(move |left_out| {
                warn!(left_out, "cannot publish what came over HTTP: {error}");
            });
        })
    }

    /// The connection to use now.
    fn attempt(&self) -> Arc<Attempt> {
        let reconnects = self.health.reconnects();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.is_over(reconnects) {
            *current = Attempt::new(reconnects);
        }
        current.clone()
    }
}

impl Attempt {
    fn new(reconnects: u64) -> Arc<Self> {
        let (publisher, broken) = Default::default();
        Arc::new(Self { begun: Instant::now(), reconnects, publisher, broken })
    }

    fn is_over(&self, reconnects: u64) -> bool {
        let failed = self.broken.load(Relaxed) || matches!(self.publisher.get(), Some(Err(_)));
        self.reconnects != reconnects || failed && self.begun.elapsed() >= RETRY_AFTER
    }
}
