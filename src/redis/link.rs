//! The connection to Redis that all HTTP publishers share. It is made again when it is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::anyhow;
use parking_lot::Mutex;
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

/// Time limit from the request to Redis' answer, including the connection: a caller that waits
/// longer has often given up.
const DEADLINE: Duration = Duration::from_secs(5);
/// The shortest time between two attempts to connect; in between, publishing fails at once.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Limits log lines about failures to one a minute, because publishers may retry without a limit.
static REFUSED: LogLimit = LogLimit::new(1);

/// The connection to Redis for all publishers over HTTP.
///
/// It is made by the first publish and shared. It is replaced after an error that broke it, and
/// when the subscription was made again, because then Redis was away. A publish that Redis may have
/// received is never repeated: the caller gets an error instead of a possible duplicate.
pub struct Link {
    address: RedisAddress,
    /// Publish at the server of the subscription, even if the host name leads to another one now.
    at_source: bool,
    health: Arc<Health>,
    current: Mutex<Arc<Attempt>>,
}

/// One connection: not made yet, being made, in use, or failed.
struct Attempt {
    begun: Instant,
    /// The count of the subscription's reconnects when this attempt began. A higher count means
    /// that Redis was away, so this connection is lost too, even if it has not been used since.
    reconnects: u64,
    /// The connection, or the error. All callers that arrive while it is being made wait for it and
    /// share its error.
    publisher: OnceCell<Result<Publisher, String>>,
    broken: AtomicBool,
}

impl Link {
    /// A link that connects at the first publish: to `publish_host`, or if there is none to the
    /// server of `source` at which the subscription is.
    pub fn new(
        source: RedisAddress,
        publish_host: Option<RedisAddress>,
        health: Arc<Health>,
    ) -> Self {
        let current = Mutex::new(Attempt::new(health.reconnects()));
        let at_source = publish_host.is_none();
        Self { address: publish_host.unwrap_or(source), at_source, health, current }
    }

    /// Publishes a payload and returns the number of subscribers that Redis reports.
    ///
    /// # Errors
    /// If Redis is out of reach, does not answer within 5 s, or answers with an error. After a
    /// time-out or a lost connection, the message may have been published nevertheless.
    ///
    /// # Cancel safety
    /// If the future is dropped, the message may have been published or not; the link stays usable.
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
                warn!(left_out, "cannot publish a message received over HTTP: {error}");
            });
        })
    }

    /// The current connection, or a new attempt if that one is over.
    fn attempt(&self) -> Arc<Attempt> {
        let reconnects = self.health.reconnects();
        let mut current = self.current.lock();
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

    /// Whether another attempt must replace this one.
    fn is_over(&self, reconnects: u64) -> bool {
        let failed = self.broken.load(Relaxed) || matches!(self.publisher.get(), Some(Err(_)));
        self.reconnects != reconnects || failed && self.begun.elapsed() >= RETRY_AFTER
    }
}
