//! Checks every few seconds which server the host name of the setting leads to. It may be another
//! one by now, while the watched server is still up but no longer has publishers.

use std::time::Duration;

use anyhow::anyhow;
use tokio::time::{Instant, sleep, timeout};
use tracing::info;

use super::{Subscription, connection::Commands, identity::Identity};

/// Interval of the checks. Each makes one short connection.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Time limit for a probe that is published at the server to which the name leads.
const ECHO_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause after the first check that found another server.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The number of consecutive checks that must find another server before the subscription moves.
const BELIEVED: u32 = 2;
/// The shortest time between two moves, because a name may lead to several servers in turn.
const MOVE_EVERY: Duration = Duration::from_secs(60);

/// The server to which the host name leads.
enum Found {
    /// The watched server, or one that shares its messages.
    Watched,
    /// A master or replica of the same replication as the watched server; with a description.
    Relative(String),
    /// Another server; with a description.
    Another(String),
    /// Unknown: the server is out of reach, or does not report its identity.
    Nothing,
}

impl Subscription {
    /// Checks where the host name leads until the subscription must move to another server; returns
    /// an error that names it.
    pub(super) async fn keep_looking(&self) -> anyhow::Error {
        let mut others = 0;
        loop {
            sleep(if (1..BELIEVED).contains(&others) { LOOK_AGAIN } else { LOOK_EVERY }).await;
            let begun = Instant::now();
            let note = match self.look().await {
                Found::Nothing => continue,
                Found::Another(what) => {
                    others += 1;
                    if others < BELIEVED {
                        continue;
                    }
                    let words = format!("{} leads to another Redis now: {what}", self.address);
                    if self.may_move() {
                        self.ledger().moved();
                        return anyhow!("{words}; subscribing there");
                    }
                    self.ledger().astray = Some(words);
                    continue;
                }
                Found::Relative(what) => Some(format!(
                    "{} also leads to {what} of the same replication as the watched server",
                    self.address
                )),
                Found::Watched => None,
            };
            others = 0;
            let earlier = self.ledger().led_here(begun);
            if self.ledger().astray.take().is_some() {
                self.intake.lost(earlier);
            }
            if let Some(news) = self.health.note(note) {
                info!("{news}");
            }
        }
    }

    /// Connects to the server to which the host name leads, and compares it with the watched one.
    async fn look(&self) -> Found {
        let Ok(mut commands) = Commands::connect(&self.address, None).await else {
            return Found::Nothing;
        };
        let Ok(found) = Identity::ask(&mut commands).await else { return Found::Nothing };
        let watched = self.ledger().identity().clone();
        let is_another = match watched.is_same_process(&found) {
            Some(true) => return Found::Watched,
            Some(false) if watched.is_related(&found) => return Found::Relative(describe(&found)),
            Some(false) => true,
            None => false,
        };
        // Servers that forward messages to each other, such as the nodes of a cluster, are one
        // source.
        match self.arrives(&mut commands).await {
            Some(true) => Found::Watched,
            Some(false) => Found::Another(describe(&found)),
            None if is_another => Found::Another(describe(&found)),
            None => Found::Nothing,
        }
    }

    /// Whether a message published over `commands` arrives on the subscription; `None` if no probe
    /// can be published.
    async fn arrives(&self, commands: &mut Commands) -> Option<bool> {
        if !self.can_probe() {
            return None;
        }
        let (number, payload) = self.intake.pulse.looks.next();
        self.publish_probe(commands, &payload).await.ok()?;
        Some(timeout(ECHO_TIMEOUT, self.intake.pulse.looks.back(number)).await.is_ok())
    }

    /// Whether the subscription may move to another server now. If so, the next move is allowed
    /// after [`MOVE_EVERY`].
    fn may_move(&self) -> bool {
        let mut last = self.last_move();
        let may = last.is_none_or(|last| last.elapsed() >= MOVE_EVERY);
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}

/// Describes a server for the log and `/status`.
fn describe(found: &Identity) -> String {
    match &found.run_id {
        Some(run_id) => format!("a {} ({run_id})", found.replication.role.as_str()),
        None => "messages published there do not arrive".to_owned(),
    }
}
