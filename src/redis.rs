//! Redis: subscribe, prove, back off, subscribe again; and publish.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{anyhow, bail};
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

/// The first pause before trying again; it doubles.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// The longest pause while connections are refused: such a try costs nothing, and viewers wait.
const BACKOFF_REFUSED: Duration = Duration::from_secs(1);

/// The subscription to all patterns: made again whenever it is lost.
///
/// [`Subscription::run`] is the only task. It reads the connection, sends probes (`probe`) and
/// follows the name (`look`) at the same time; whichever of the three ends first ends the session.
pub struct Subscription {
    address: RedisAddress,
    /// Where probes are published, if not at the watched server.
    publish_host: Option<RedisAddress>,
    intake: Arc<Intake>,
    ledger: Arc<Mutex<Ledger>>,
    /// The patterns cover probes, and the user may publish them as far as is known.
    can_probe: AtomicBool,
    /// When the watched server was left because of its name.
    last_move: Mutex<Option<Instant>>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

impl Subscription {
    /// A subscription to these patterns at `address`; what arrives goes to `queue`.
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
            // Without an echo there is nothing to learn there.
            publish_host: publish_host.filter(|_| can_probe),
            can_probe: AtomicBool::new(can_probe),
            last_move: Mutex::default(),
            health,
            metrics,
        }
    }

    /// Subscribes, and again whenever the subscription is lost, until `stop`.
    ///
    /// # Cancel safety
    /// Dropped, it closes its connections. What has been queued stays queued.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.watch()).await;
    }

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
            // Not at once: a Redis that accepts and then drops connections is in trouble.
            if begun.elapsed() > BACKOFF_MAX {
                backoff = Backoff::default();
            }
            if self.health.failed(&format!("{error:#}")) {
                warn!("{error:#}; trying again until it works");
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

    /// Asks what the server is, then subscribes.
    ///
    /// # Errors
    /// Also if the server answers a PING with an error: it will not deliver either.
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
            let mut ledger = lock(&ledger);
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

    /// What the watched server says of its replication now, and why a probe did not come back.
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
        // After the source is up again: this is the order in which clients hear of it.
        if let Judgement::Broken(since) = judgement {
            self.intake.lost(since);
        }
    }

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

    /// Whether probes can be published and come back.
    fn can_probe(&self) -> bool {
        self.can_probe.load(Relaxed)
    }

    fn cannot_probe(&self) {
        self.can_probe.store(false, Relaxed);
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    fn last_move(&self) -> MutexGuard<'_, Option<Instant>> {
        lock(&self.last_move)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// `refused`: the last connection was refused.
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
    fn pauses_grow_to_five_seconds_and_to_one_while_connections_are_refused() {
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
        assert!(backoff.next(true) <= BACKOFF_REFUSED, "the first refusal counts");
    }
}
