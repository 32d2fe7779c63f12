//! Looks again and again where the setting's name leads: it may be another server by now, while
//! the watched one lives on without publishers.

use std::time::Duration;

use anyhow::anyhow;
use tokio::time::{Instant, sleep, timeout};
use tracing::info;

use super::{Subscription, connection::Commands, identity::Identity};

/// How often the name is followed. One short connection each time.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// For a probe to arrive that was published where the name leads.
const ECHO_TIMEOUT: Duration = Duration::from_secs(3);
/// The next look after one that found another server.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Looks in a row that have to find another server before it is believed.
const BELIEVED: u32 = 2;
/// The watched server is left at most so often because of the name, which may lead to several
/// servers in turn.
const MOVE_EVERY: Duration = Duration::from_secs(60);

/// Where the name leads.
enum Found {
    /// To the watched server.
    Watched,
    /// To a replica or to the master of the watched one: as described.
    Relative(String),
    /// To another server: as described.
    Another(String),
    /// Nothing can be told: it is out of reach, or says nothing about itself.
    Nothing,
}

impl Subscription {
    /// Follows the name until it leads to another server, and says so.
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
        // Servers that share what is published, as the nodes of a cluster do, are one source.
        match self.arrives(&mut commands).await {
            Some(true) => Found::Watched,
            Some(false) => Found::Another(describe(&found)),
            None if is_another => Found::Another(describe(&found)),
            None => Found::Nothing,
        }
    }

    /// Whether what is published there arrives here; `None` if that cannot be tried.
    async fn arrives(&self, commands: &mut Commands) -> Option<bool> {
        if !self.can_probe() {
            return None;
        }
        let (number, payload) = self.intake.pulse.looks.next();
        self.publish_probe(commands, &payload).await.ok()?;
        Some(timeout(ECHO_TIMEOUT, self.intake.pulse.looks.back(number)).await.is_ok())
    }

    /// Whether the watched server may be left now; if so, not again for a while.
    fn may_move(&self) -> bool {
        let mut last = self.last_move();
        let may = last.is_none_or(|last| last.elapsed() >= MOVE_EVERY);
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}

/// A server, for the log and the status.
fn describe(found: &Identity) -> String {
    match &found.run_id {
        Some(run_id) => format!("a {} ({run_id})", found.replication.role.as_str()),
        None => "what is published there does not arrive".to_owned(),
    }
}
