use tokio::time::advance;

use super::*;
use crate::health::{Health, SourceServer};

/// A listener that records the signals it is sent (`Some(up)`) and gaps (`None`).
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
        self.heard.lock().push(None);
    }

    fn heard(&self) -> Vec<Option<bool>> {
        self.heard.lock().clone()
    }
}

impl Listener for Ear {
    fn told(&self) -> &Told {
        &self.told
    }

    fn tell(&self, signal: SourceSignal) {
        self.heard.lock().push(Some(signal.up));
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

/// Lets the task do all that it can do now.
async fn settle() {
    for _ in 0..20 {
        yield_now().await;
    }
}

/// Makes the source go down, and waits until listeners are notified.
async fn go_away(health: &Health) {
    health.failed("gone");
    settle().await;
    advance(TOLD_AFTER).await;
    settle().await;
}

/// A server that gets all messages.
fn complete() -> SourceServer {
    SourceServer { is_complete: true, ..SourceServer::default() }
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_reported_once_at_its_start_and_once_at_its_end() {
    let (health, outages) = start();
    tokio::spawn(outages.clone().run());
    let ears: Vec<_> = (0..3 * TURN).map(|_| Ear::new(&outages)).collect();
    go_away(&health).await;
    health.failed("still gone");
    let late = Ear::new(&outages);
    assert_eq!(late.heard(), [DOWN], "a listener that enters during an outage is notified at once");
    health.subscribed(complete());
    settle().await;
    for ear in ears.iter().chain([&late]) {
        assert_eq!(ear.heard(), [DOWN, UP]);
    }
    assert_eq!(Ear::new(&outages).heard(), []);
    assert_eq!(outages.told.load(Relaxed), ears.len() as u64 + 1);
    drop((ears, late));
    assert!(outages.listeners.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_is_not_reported() {
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
async fn a_gap_sent_before_the_task_runs_comes_after_the_end_of_its_outage() {
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
async fn an_outage_that_ends_while_the_task_walks_is_not_reported_after_its_gap() {
    let (health, outages) = start();
    let ear = Ear::new(&outages);
    health.failed("gone");
    let since = outages.source.borrow().since;
    // The task has announced the outage, and has not reached this listener yet.
    outages.announced.store(since, Release);
    health.subscribed(complete());
    ear.gap();
    outages.walk().await;
    assert_eq!(ear.heard(), [GAP]);
}

#[tokio::test(start_paused = true)]
async fn two_outages_in_quick_succession_are_reported_as_two() {
    let (health, outages) = start();
    tokio::spawn(outages.clone().run());
    let ear = Ear::new(&outages);
    go_away(&health).await;
    // The source comes back and goes down again before the task sees either. The times must differ
    // by the wall clock, which the test cannot advance.
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
