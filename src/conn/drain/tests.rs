//! When the drain asks a connection to finish.

use std::num::NonZero;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::{Duration, sleep};

use super::*;
use crate::{
    conn::{backlog::Backlog, connection::ConnectionGuard, inbound::InboundBudget},
    ingest::{self, QueueBounds, Receiver, Sender},
    lanes::Lanes,
    message::Message,
};

const GRACE: Duration = Duration::from_secs(10);

fn lane() -> (Sender, Receiver) {
    let bounds = QueueBounds { messages: 10, bytes: 100, payload: 10 };
    let (sender, receivers) =
        ingest::queue(Lanes::new(NonZero::<usize>::MIN), Arc::default(), bounds, Arc::default());
    (sender, receivers.into_iter().next().expect("one receiver per lane"))
}

fn streams() -> Arc<Connections> {
    let backlog = Backlog::new(usize::MAX >> 1, <_>::default());
    let inbound = InboundBudget::new(usize::MAX, <_>::default());
    Connections::new(<_>::default(), backlog, inbound, None, Arc::default())
}

fn open(streams: &Arc<Connections>) -> ConnectionGuard {
    ConnectionGuard::new(([127, 0, 0, 1], 1).into(), streams)
}

fn finishing(entry: &ConnectionGuard) -> bool {
    entry.connection().is_asked()
}

/// Takes the lane's message. The lane counts as busy until the next call of `next`.
async fn take(receiver: &mut Receiver) {
    let mut batch = Vec::new();
    receiver.next(&mut batch).await;
    assert_eq!(batch.len(), 1);
}

fn handed_on(receiver: &mut Receiver) {
    assert!(receiver.next(&mut Vec::new()).now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_connection_closes_after_all_received_messages_are_delivered() {
    let (streams, (sender, mut receiver)) = (streams(), lane());
    let entry = open(&streams);
    let deadline = Instant::now() + GRACE;
    sender.message(Message::now(Bytes::from_static(b"c"), Bytes::from_static(b"1")));
    let progress = sender.progress();
    let draining = tokio::spawn({
        let streams = streams.clone();
        async move { close_all(&streams, &progress, deadline).await }
    });
    sleep(GRACE.mul_f64(0.1)).await;
    assert!(!finishing(&entry), "a message is queued in the lane");
    take(&mut receiver).await;
    sleep(GRACE.mul_f64(0.1)).await;
    assert!(!finishing(&entry), "the message is being delivered");
    handed_on(&mut receiver);
    sleep(Duration::from_millis(1)).await;
    assert!(finishing(&entry));

    // A message that arrives at this moment still has to reach this connection.
    let is_over = || entry.connection().finishes().now_or_never().is_some();
    assert!(is_over());
    sender.message(Message::now(Bytes::from_static(b"c"), Bytes::from_static(b"2")));
    take(&mut receiver).await;
    assert!(!is_over());
    handed_on(&mut receiver);
    assert!(is_over());
    drop(entry);
    draining.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn busy_lanes_leave_time_for_the_last_bytes() {
    const CONNECTIONS: usize = 100;
    let (streams, (sender, mut receiver)) = (streams(), lane());
    let entries: Vec<_> = (0..CONNECTIONS).map(|_| open(&streams)).collect();
    sender.message(Message::now(Bytes::from_static(b"c"), Bytes::from_static(b"1")));
    take(&mut receiver).await;
    let (progress, deadline) = (sender.progress(), Instant::now() + GRACE);
    let draining = tokio::spawn({
        let streams = streams.clone();
        async move { close_all(&streams, &progress, deadline).await }
    });
    sleep(GRACE.mul_f64(ASKING)).await;
    let is_over = |entry: &ConnectionGuard| entry.connection().finishes().now_or_never().is_some();
    assert!(entries.iter().all(is_over), "a fifth of the grace is left for the last bytes");
    drop(entries);
    draining.await.expect("no panic");
}
