//! Checks every few seconds that the subscription receives published messages: publishes a probe on
//! a channel of this process, and asks the server for its role.

use std::{pin::pin, time::Duration};

use redis::RedisError;
use tokio::{
    join, select,
    time::{Instant, sleep_until, timeout},
    try_join,
};
use tracing::info;

use super::{
    Subscription,
    connection::{Commands, STEP_TIMEOUT, explain, is_denied, no_answer},
    identity::Replication,
    session::Session,
};
use crate::{config::RedisAddress, glob};

/// The prefix of the probes' channels, of this and of other instances. They are not rooms.
pub const PROBES: &str = "roomcast:probe:";
/// Interval of probes.
const PROBE_EVERY: Duration = Duration::from_secs(3);
/// Interval of probes while the link of a replica to its master is down. It is short because
/// clients receive the gap only with the first probe after the link is up, although messages arrive
/// again.
const CUT_OFF_EVERY: Duration = Duration::from_millis(500);
/// The subscription counts as lost if nothing arrives for this time while an answer is due. With
/// [`PROBE_EVERY`], a half-open connection is noticed within 8 s.
const SILENCE: Duration = Duration::from_secs(5);

impl Subscription {
    /// Sends probes until the subscription is lost; returns why.
    pub(super) async fn keep_proving(&self, session: &mut Session) -> anyhow::Error {
        loop {
            let sent = Instant::now();
            if let Err(error) = self.prove(session, sent).await {
                return error;
            }
            let pause = if self.ledger().is_cut_off() { CUT_OFF_EVERY } else { PROBE_EVERY };
            sleep_until(sent + pause).await;
        }
    }

    /// One round: a probe and a question for the replication state.
    async fn prove(&self, session: &mut Session, sent: Instant) -> anyhow::Result<()> {
        let mut commands = session.commands.clone();
        let is_one = session.is_one_connection();
        let replication = async {
            let answer = Replication::ask(&mut commands).await;
            if is_one {
                self.intake.pulse.beat();
            }
            answer.map_err(|error| explain(&self.address, error))
        };
        let (missing, replication) = match &self.publish_host {
            // If the probe from `host` is missing, this connection may still be fine: PING it too.
            Some(host) => {
                let alive = async { try_join!(self.ping(session), replication) };
                let (missing, alive) = join!(self.echo_from(host), self.unless_silent(sent, alive));
                (missing, alive?.1)
            }
            None => {
                let proof = async { try_join!(self.echo(session), replication) };
                let ((), replication) = self.unless_silent(sent, proof).await?;
                (None, replication)
            }
        };
        let has_echo = missing.is_none();
        self.judge(replication, missing);
        if has_echo {
            self.metrics.round_trip.set(sent.elapsed().as_secs_f64());
            self.ledger().echoed(sent);
        }
        Ok(())
    }

    /// Awaits a round, but fails if the connection is silent for [`SILENCE`]. The round itself has
    /// no time limit: under heavy traffic an answer may take long, because it arrives after all
    /// messages sent before it.
    async fn unless_silent<T>(
        &self,
        sent: Instant,
        round: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let mut round = pin!(round);
        let silent_at = || self.intake.pulse.last().max(sent) + SILENCE;
        loop {
            select! {
                result = &mut round => return result,
                () = sleep_until(silent_at()) => {
                    self.metrics.round_trip.set(sent.elapsed().as_secs_f64());
                    if silent_at() <= Instant::now() {
                        return Err(no_answer(&self.address));
                    }
                }
            }
        }
    }

    /// Publishes a probe at the watched server and waits until it comes back. If probes are not
    /// possible, sends PING on the subscribing connection instead.
    ///
    /// # Errors
    /// If the watched server answers with an error.
    async fn echo(&self, session: &mut Session) -> anyhow::Result<()> {
        if self.can_probe() {
            let (number, payload) = self.intake.pulse.probes.next();
            match self.publish_probe(&mut session.commands, &payload).await {
                Ok(()) => {
                    self.intake.pulse.probes.back(number).await;
                    return Ok(());
                }
                Err(error) if is_denied(&error) => {
                    self.cannot_probe();
                    info!("the Redis user may not publish on {PROBES}*: probing by PING instead");
                }
                Err(error) => return Err(explain(&self.address, error)),
            }
        }
        self.ping(session).await
    }

    async fn ping(&self, session: &mut Session) -> anyhow::Result<()> {
        session.ping().await.map_err(|error| explain(&self.address, error))
    }

    /// Publishes a probe at `host` and waits until it comes back. Each probe uses a new connection,
    /// because the name may lead to another server by now. Returns why the probe did not arrive, if
    /// it did not.
    async fn echo_from(&self, host: &RedisAddress) -> Option<String> {
        let (number, payload) = self.intake.pulse.probes.next();
        let published = async {
            let mut commands = Commands::connect(host, None).await?;
            let published = self.publish_probe(&mut commands, &payload).await;
            published.map_err(|error| explain(host, error))
        };
        if let Err(error) = published.await {
            return Some(format!("cannot publish a probe: {error:#}"));
        }
        match timeout(STEP_TIMEOUT, self.intake.pulse.probes.back(number)).await {
            Ok(()) => None,
            Err(_) => Some(format!(
                "a message published at {} ({host}) did not arrive from {} within {} s: check that one is the master of the other",
                host.setting,
                self.address,
                STEP_TIMEOUT.as_secs()
            )),
        }
    }

    pub(super) async fn publish_probe(
        &self,
        commands: &mut Commands,
        payload: &str,
    ) -> Result<(), RedisError> {
        let channel = &self.intake.probe_channel;
        commands.ask(redis::cmd("PUBLISH").arg(channel).arg(payload)).await
    }
}

/// A random channel for the probes of one process.
pub fn new_channel() -> String {
    format!("{PROBES}{:012x}", rand::random::<u64>() >> 16)
}

/// Whether one of the patterns matches the channel, so that a probe published there would arrive.
pub fn covers(patterns: &[String], channel: &str) -> bool {
    patterns.iter().any(|pattern| glob::matches(pattern.as_bytes(), channel.as_bytes()))
}
