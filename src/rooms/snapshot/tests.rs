//! When the history is written, and what is restored after a crash.

use std::{fs, num::NonZero};

use bytes::Bytes;
use tokio::{
    task::JoinHandle,
    time::{advance, sleep},
};

use super::*;
use crate::{
    lanes::Lanes,
    message::Message,
    rooms::{
        HistoryLimits, Subscriber,
        delivery::Batch,
        history::{HistoryBounds, ReplayRequest},
        test_client::TestClient,
    },
};

struct Deaf;

impl Subscriber for Deaf {
    fn deliver(&self, batch: &Batch) -> usize {
        batch.len()
    }

    fn gap(&self, _: &str, _: &crate::message::Gap) {}

    fn hello(&self) {}
}

/// A run of a server that stores its history in a folder.
struct Run {
    rooms: Arc<Rooms>,
    metrics: Arc<Metrics>,
    report: Arc<Report>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Run {
    async fn begin(folder: &Path) -> Self {
        let metrics = Arc::new(Metrics::default());
        let limits = HistoryLimits {
            room: HistoryBounds { count: 10, age: 1 << 40, last_age: 1 << 40 },
            bytes: 1 << 20,
        };
        let lanes = Lanes::new(NonZero::<usize>::MIN);
        let rooms = Arc::new(Rooms::without_queue(limits, lanes, metrics.clone()));
        let snapshot = Snapshot::open(folder.to_owned(), limits.bytes, metrics.clone()).await;
        let mut snapshot = snapshot.expect("a folder");
        snapshot.restore(&rooms).await;
        let (report, stop) = (snapshot.report(), CancellationToken::new());
        let task = tokio::spawn(snapshot.run(rooms.clone(), stop.clone()));
        // Lets the task set its first deadline before a test advances the clock.
        sleep(Duration::from_millis(1)).await;
        Self { rooms, metrics, report, stop, task }
    }

    fn publish(&self, payload: &'static str) {
        self.metrics.messages.inc();
        let number = self.rooms.sequence().count();
        let payload = Bytes::from_static(payload.as_bytes());
        let message = Message { number, ..Message::now(Bytes::from_static(b"room"), payload) };
        self.rooms.place("room", &self.rooms.epoch(number), vec![message]);
    }

    /// Advances the clock, then waits for the write that is due.
    async fn pass(&self, time: Duration) {
        let before = self.writes();
        advance(time).await;
        // The paused clock does not advance while a blocking call to the folder is running.
        sleep(Duration::from_millis(1)).await;
        assert!(self.writes() <= before + 1);
    }

    fn writes(&self) -> u64 {
        self.metrics.state_writes("done").get()
    }

    fn crash(self) {
        self.task.abort();
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.expect("the task ends without a panic");
    }

    fn kept(&self) -> Vec<String> {
        let rooms = self.rooms.kept().flat_map(|(_, kept)| kept);
        rooms.map(|kept| String::from_utf8_lossy(&kept.payload).into_owned()).collect()
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("roomcast-snapshot-{}-{name}", std::process::id())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_history_is_written_every_30_s_if_messages_have_arrived() {
    let folder = Folder::new("every");
    let run = Run::begin(&folder.0).await;
    assert_eq!(run.writes(), 1, "the record of the run's start");
    run.pass(WRITE_EVERY).await;
    assert_eq!(run.writes(), 1, "no message has arrived");
    run.publish("a");
    run.pass(WRITE_EVERY).await;
    assert_eq!(run.writes(), 2);
    run.pass(WRITE_EVERY).await;
    assert_eq!(run.writes(), 2, "no further message has arrived");
    run.crash();

    let run = Run::begin(&folder.0).await;
    assert_eq!(run.kept(), ["a"], "the history written before the crash");
    run.crash();
    let run = Run::begin(&folder.0).await;
    assert_eq!(run.kept(), [""; 0], "a history is restored once only");
    run.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_restored_history_is_written_even_if_no_message_arrives() {
    let folder = Folder::new("again");
    let run = Run::begin(&folder.0).await;
    run.publish("a");
    run.end().await;
    let run = Run::begin(&folder.0).await;
    run.pass(WRITE_EVERY).await;
    run.crash();
    let run = Run::begin(&folder.0).await;
    assert_eq!(run.kept(), ["a"]);
    run.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_report_shows_that_the_folder_is_lost_and_that_it_is_back() {
    let folder = Folder::new("away");
    let run = Run::begin(&folder.0).await;
    fs::remove_dir_all(&folder.0).expect("removed");
    fs::write(&folder.0, "in its place").expect("written");
    run.publish("a");
    run.pass(WRITE_EVERY).await;
    let (ok, _) = run.report.look();
    assert_eq!((ok, run.metrics.state_ok.get()), (false, 0));
    fs::remove_file(&folder.0).expect("removed");
    run.pass(WRITE_EVERY).await;
    let (ok, report) = run.report.look();
    assert!(ok && report.error.is_none() && report.written.is_some());
    assert_eq!(run.metrics.state_ok.get(), 1);
    run.end().await;
}

#[tokio::test(start_paused = true)]
async fn positions_of_the_last_run_stay_known_and_messages_may_be_missing_behind_them() {
    let folder = Folder::new("positions");
    let run = Run::begin(&folder.0).await;
    let positions: Vec<_> = ["a", "b", "c"]
        .map(|payload| {
            run.publish(payload);
            run.rooms.sequence().position(run.rooms.sequence().latest())
        })
        .into();
    run.end().await;
    let run = Run::begin(&folder.0).await;
    let numbers: Vec<_> = positions
        .iter()
        .map(|at| run.rooms.sequence().number(at).map(|known| known.number))
        .collect();
    assert_eq!(numbers, [Some(1), Some(2), Some(3)]);
    let request = ReplayRequest { since: Some(positions[0].clone()), ..Default::default() };
    let (_, told) = TestClient::join(&run.rooms, "room", Arc::new(Deaf), &request);
    let payloads: Vec<_> = told.messages.iter().map(|kept| &kept.payload[..]).collect();
    assert_eq!((payloads, told.recovered), (vec![&b"b"[..], b"c"], Some(false)));
    assert_eq!(told.position.map(|at| at.offset), Some(0));
    run.end().await;
}
