//! Looks again and again where the setting's name leads: it may be another server by now, while
//! the watched one lives on without publishers.

use std::time::Duration;

use anyhow::anyhow;
use tokio::time::{Instant, sleep, timeout};
use tracing::info;

use super::{
    Subscription,
    connection::{Commands, STEP_TIMEOUT},
    identity::{Identity, Role},
};

/// How often the name is followed. One short connection each time.
const LOOK_EVERY: Duration = Duration::from_secs(5);
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
    /// To a replica or to the master of the watched one, as said.
    Relative(String),
    /// To another server, as said.
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
                Found::Relative(what) => Some(format!("{} leads to {what} too", self.address)),
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
        match watched.is_same_process(&found) {
            Some(true) => Found::Watched,
            Some(false) => compare(&watched, &found),
            None => self.echo_by_name(&mut commands).await,
        }
    }

    /// A server that does not say what it is can still show that messages published there arrive.
    async fn echo_by_name(&self, commands: &mut Commands) -> Found {
        if !self.can_probe() {
            return Found::Nothing;
        }
        let (number, payload) = self.intake.pulse.looks.next();
        if self.publish_probe(commands, &payload).await.is_err() {
            return Found::Nothing;
        }
        match timeout(STEP_TIMEOUT, self.intake.pulse.looks.back(number)).await {
            Ok(()) => Found::Watched,
            Err(_) => Found::Another("what is published there does not arrive".to_owned()),
        }
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

fn compare(watched: &Identity, found: &Identity) -> Found {
    let run = found.run_id.as_deref().unwrap_or_default();
    let is_replica = matches!(found.replication.role, Role::Replica { .. });
    match (watched.is_related(found), &watched.replication.role) {
        (true, _) if is_replica => Found::Relative(format!("a replica ({run}) of what is watched")),
        // The master is where publishers are; its replicas will be relatives then.
        (true, Role::Replica { .. }) => {
            Found::Another(format!("the master ({run}) of the replica that is watched"))
        }
        _ if is_replica => Found::Another(format!("a replica ({run}) of another master")),
        _ => Found::Another(format!("a master ({run})")),
    }
}
