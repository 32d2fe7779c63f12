//! Redis: subscribes, probes the subscription, backs off and subscribes again when it is lost; and
//! publishes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{anyhow, bail};
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    select,
    time::{Instant, sleep},
    try_join,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::ingest::Sender;
use crate::{
    config::RedisAddress,
    health::{Health, SourceServer},
    metrics::Metrics,
};

mod connection;
mod identity;
mod inspect;
mod intake;
mod ledger;
mod link;
mod look;
mod probe;
mod publisher;
mod pulse;
mod session;
mod tls;

use connection::{in_time, is_refused};
use identity::{Identity, Replication, Role};
use intake::Intake;
use ledger::{Judgement, Ledger};
use probe::PROBES;
use session::Session;

pub use connection::answers;
pub use identity::Role as SourceRole;
pub use inspect::{BufferLimit, Echo, Inspection, inspect};
pub use link::{Link, RETRY_AFTER};
pub use publisher::Publisher;

/// The first pause before the next attempt; it doubles after each.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// The longest pause while connections are refused: such an attempt costs nothing, and clients are
/// waiting for messages.
const BACKOFF_REFUSED: Duration = Duration::from_secs(1);

/// The subscription to all patterns. It is made again whenever it is lost.
///
/// [`Subscription::run`] is the only task. It reads the connection, sends probes (module `probe`)
/// and checks where the host name leads (module `look`) concurrently. Whichever of the three ends
/// first ends the session; after a pause, the next one starts. The gap of the time in between is
/// queued before the first message of the new session.
pub struct Subscription {
    address: RedisAddress,
    /// The Redis at which probes are published, if that is not the watched server.
    publish_host: Option<RedisAddress>,
    intake: Arc<Intake>,
    ledger: Arc<Mutex<Ledger>>,
    /// The patterns cover probes, and Redis has not refused to let the user publish them.
    can_probe: AtomicBool,
    /// When the subscription last left a server because its name led to another one.
    last_move: Mutex<Option<Instant>>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

impl Subscription {
    /// A subscription to `patterns` at `address`; messages and gaps go to `queue`. It connects when
    /// [`Subscription::run`] is called.
    pub fn new(
        address: RedisAddress,
        publish_host: Option<RedisAddress>,
        patterns: Vec<String>,
        queue: Sender,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let channel = probe::new_channel();
        let can_probe = probe::covers(&patterns, &channel);
        if !can_probe {
            info!("REDIS_CHANNELS does not cover {PROBES}*: probing by PING");
        }
        Self {
            intake: Intake::new(patterns, channel, queue),
            ledger: Arc::new(Mutex::new(Ledger::new(publish_host.is_some()))),
            address,
            // Without probes there is no reason to connect there.
            publish_host: publish_host.filter(|_| can_probe),
            can_probe: AtomicBool::new(can_probe),
            last_move: Mutex::default(),
            health,
            metrics,
        }
    }

    /// Subscribes, and subscribes again whenever the subscription is lost, until `stop` is
    /// cancelled.
    ///
    /// # Cancel safety
    /// Dropping the future closes its connections. Messages that are queued stay queued.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.watch()).await;
    }

    /// Runs one session after another.
    async fn watch(&self) -> ! {
        let mut backoff = Backoff::default();
        loop {
            let begun = Instant::now();
            let error = match Session::open(&self.address, &self.intake).await {
                Ok((session, reading)) => select! {
                    () = reading => anyhow!("Redis at {} closed the connection", self.address),
                    error = self.attend(session) => error,
                },
                Err(error) => error,
            };
            self.metrics.source_up.set(0);
            // The back-off starts anew only after a session of some length: a Redis that accepts
            // connections and drops them at once would otherwise be contacted every 100 ms.
            if begun.elapsed() > BACKOFF_MAX {
                backoff = Backoff::default();
            }
            if self.health.failed(&format!("{error:#}")) {
                warn!("{error:#}; retrying until it succeeds");
            }
            sleep(backoff.next(is_refused(&error))).await;
        }
    }

    /// Subscribes, and watches the subscription until it is lost. Returns why.
    async fn attend(&self, mut session: Session) -> anyhow::Error {
        if let Err(error) = self.subscribe(&mut session).await {
            return error;
        }
        select! {
            error = self.keep_proving(&mut session) => error,
            error = self.keep_looking() => error,
        }
    }

    /// Asks the server for its identity, then subscribes.
    ///
    /// # Errors
    /// If the server is a Sentinel, a step fails or times out, or the server answers PING with an
    /// error: then it will not deliver messages either.
    async fn subscribe(&self, session: &mut Session) -> anyhow::Result<()> {
        let mut commands = session.commands.clone();
        let asked = async { try_join!(session.ping(), Identity::ask(&mut commands)) };
        let ((), identity) = in_time(&self.address, asked).await?;
        if identity.is_sentinel {
            bail!(
                "Redis at {} is a Sentinel, which has no messages: set {} to the Redis that it watches",
                self.address,
                self.address.setting
            );
        }
        let server = self.server(&identity, session);
        self.tell_role(&identity.replication);
        let is_cut_off = identity.replication.is_cut_off();
        let (ledger, health) = (self.ledger.clone(), self.health.clone());
        let metrics = self.metrics.clone();
        self.intake.expect(move || {
            let mut ledger = ledger.lock();
            let is_first = !health.has_subscribed();
            health.subscribed(server);
            if !is_first {
                metrics.reconnects.inc();
            }
            metrics.source_up.set(i64::from(!is_cut_off));
            ledger.subscribed(identity)
        });
        in_time(&self.address, session.subscribe(&self.intake)).await?;
        let patterns = self.intake.patterns().join(",");
        let reconnects = self.health.source().reconnects;
        info!(%patterns, reconnects, role = self.role(), "subscribed at Redis {}", self.address);
        Ok(())
    }

    /// Updates health, metrics and gaps with the current replication state of the watched server.
    /// `missing` says why a probe did not come back, if it did not.
    fn judge(&self, replication: Replication, missing: Option<String>) {
        let before = self.ledger().identity().replication.role.as_str();
        let role = replication.role.clone();
        let (judgement, astray) = {
            let mut ledger = self.ledger();
            (ledger.judge(replication.clone()), ledger.astray.clone())
        };
        if role.as_str() != before {
            warn!("Redis at {} was a {before} and is a {} now", self.address, role.as_str());
        }
        self.tell_role(&replication);
        let stale = match (&judgement, &role) {
            (Judgement::CutOff, Role::Replica { master, .. }) => Some(format!(
                "Redis at {} is a replica whose link to its master {master} is down: messages are missing until it is up",
                self.address
            )),
            _ => missing.or(astray),
        };
        match stale {
            Some(words) => {
                self.metrics.source_up.set(0);
                if self.health.stale(&words) {
                    warn!("{words}");
                }
            }
            None if self.health.restored() => {
                self.metrics.source_up.set(1);
                info!("messages from Redis at {} are complete again", self.address);
            }
            None => {}
        }
        // After the source is up again: clients receive the two in this order.
        if let Judgement::Broken(since) = judgement {
            self.intake.lost(since);
        }
    }

    /// Reports the role to health and metrics.
    fn tell_role(&self, replication: &Replication) {
        let master = match &replication.role {
            Role::Replica { master, .. } => Some(master.clone()),
            Role::Master | Role::Unknown => None,
        };
        let role = replication.role.as_str();
        self.metrics.source_role(role);
        self.health.role(role, master);
    }

    fn server(&self, identity: &Identity, session: &Session) -> SourceServer {
        SourceServer {
            peer: session.peer,
            run_id: identity.run_id.clone(),
            version: identity.version.clone(),
            is_complete: !identity.replication.is_cut_off(),
        }
    }

    fn role(&self) -> &'static str {
        self.ledger().identity().replication.role.as_str()
    }

    /// Whether probes can be published and received.
    fn can_probe(&self) -> bool {
        self.can_probe.load(Relaxed)
    }

    fn cannot_probe(&self) {
        self.can_probe.store(false, Relaxed);
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock()
    }

    fn last_move(&self) -> MutexGuard<'_, Option<Instant>> {
        self.last_move.lock()
    }
}

/// The pause before the next attempt: 100 ms, doubling to 5 s. A random part of up to half of each
/// pause is subtracted, so that many instances do not reconnect at the same moment.
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(BACKOFF_MIN)
    }
}

impl Backoff {
    /// The next pause; it is 1 s at most if `refused`, that is if the last connection was refused.
    fn next(&mut self, refused: bool) -> Duration {
        let longest = if refused { BACKOFF_REFUSED } else { BACKOFF_MAX };
        let pause = self.0.min(longest).mul_f64(rand::random_range(0.5..=1.0));
        self.0 = (self.0 * 2).min(longest);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_5_s_and_to_1_s_while_connections_are_refused() {
        let longest = |refused| {
            let mut backoff = Backoff::default();
            (0..100).map(|_| backoff.next(refused)).max()
        };
        assert!(longest(true) <= Some(BACKOFF_REFUSED));
        assert!(longest(false) > Some(BACKOFF_REFUSED) && longest(false) <= Some(BACKOFF_MAX));
        let mut backoff = Backoff::default();
        for _ in 0..100 {
            backoff.next(false);
        }
        assert!(backoff.next(true) <= BACKOFF_REFUSED, "the first refusal shortens the pause");
    }
}
