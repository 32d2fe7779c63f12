use tokio::time::advance;

use super::*;
use crate::health::{Health, SourceServer};

/// Remembers what it hears; gaps are `None`.
struct Ear {
    told: Told,
    heard: Mutex<Vec<Option<bool>>>,
}

impl Ear {
    fn new(outages: &Arc<Outages>) -> Arc<Self> {
        let ear = Arc::new(Self { told: outages.told(), heard: Mutex::default() });
        enter(&ear);
        ear
    }

    fn gap(&self) {
        catch_up(self);
        lock(&self.heard).push(None);
    }

    fn heard(&self) -> Vec<Option<bool>> {
        lock(&self.heard).clone()
    }
}

impl Listener for Ear {
    fn told(&self) -> &Told {
        &self.told
    }

    fn tell(&self, signal: SourceSignal) {
        lock(&self.heard).push(Some(signal.up));
    }
}

const DOWN: Option<bool> = Some(false);
const UP: Option<bool> = Some(true);
const GAP: Option<bool> = None;

fn start() -> (Health, Arc<Outages>) {
    let health = Health::new("redis".to_owned(), Vec::new());
    health.subscribed(complete());
    let outages = Outages::new(health.watch_source());
    (health, outages)
}

/// Lets the teller do all that it can do now.
async fn settle() {
    for _ in 0..20 {
        yield_now().await;
    }
}

/// Goes away, and stays away for long enough.
async fn go_away(health: &Health) {
    health.failed("gone");
    settle().await;
    advance(TOLD_AFTER).await;
    settle().await;
}

/// A server that has all messages.
fn complete() -> SourceServer {
    SourceServer { is_complete: true, ..SourceServer::default() }
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_told_once_at_its_start_and_once_at_its_end() {
    let (health, outages) = start();
    tokio::spawn(outages.clone().run());
    let ears: Vec<_> = (0..3 * TURN).map(|_| Ear::new(&outages)).collect();
    go_away(&health).await;
    health.failed("still gone");
    let late = Ear::new(&outages);
    assert_eq!(late.heard(), [DOWN], "who comes during an outage is told at once");
    health.subscribed(complete());
    settle().await;
    for ear in ears.iter().chain([&late]) {
        assert_eq!(ear.heard(), [DOWN, UP]);
    }
    assert_eq!(Ear::new(&outages).heard(), []);
    assert_eq!(outages.told.load(Relaxed), ears.len() as u64 + 1);
    drop((ears, late));
    assert!(lock(&outages.listeners).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_is_not_told() {
    let (health, outages) = start();
    tokio::spawn(outages.clone().run());
    let ear = Ear::new(&outages);
    health.failed("gone");
    settle().await;
    advance(TOLD_AFTER - Duration::from_millis(1)).await;
    health.subscribed(complete());
    settle().await;
    advance(TOLD_AFTER).await;
    settle().await;
    assert_eq!(ear.heard(), []);
}

#[tokio::test(start_paused = true)]
async fn a_gap_that_overtakes_the_teller_comes_after_the_end_of_its_outage() {
    let (health, outages) = start();
    tokio::spawn(outages.clone().run());
    let ear = Ear::new(&outages);
    go_away(&health).await;
    health.subscribed(complete());
    ear.gap();
    settle().await;
    assert_eq!(ear.heard(), [DOWN, UP, GAP]);
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_ends_while_the_teller_is_under_way_is_not_told_after_its_gap() {
    let (health, outages) = start();
    let ear = Ear::new(&outages);
    health.failed("gone");
    let since = outages.source.borrow().since;
    // The teller has announced it, and has not come to this listener yet.
    outages.announced.store(since, Release);
    health.subscribed(complete());
    ear.gap();
    outages.walk().await;
    assert_eq!(ear.heard(), [GAP]);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_goes_away_again_at_once_was_back_in_between() {
    let (health, outages) = start();
    tokio::spawn(outages.clone().run());
    let ear = Ear::new(&outages);
    go_away(&health).await;
    // Both before the teller sees either: by the clock on the wall, which the test cannot move.
    let gone = outages.source.borrow().since;
    health.subscribed(complete());
    while crate::clock::now() == gone {
        std::hint::spin_loop();
    }
    health.failed("gone again");
    ear.gap();
    assert_eq!(ear.heard(), [DOWN, UP, GAP]);
    settle().await;
    advance(TOLD_AFTER).await;
    settle().await;
    assert_eq!(ear.heard(), [DOWN, UP, GAP, DOWN]);
}
