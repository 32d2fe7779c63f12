use std::num::NonZero;

use bytes::Bytes;
use futures_util::FutureExt;

use super::*;

/// One lane with these bounds.
fn lane(messages: usize, bytes: usize, metrics: &Arc<Metrics>) -> (Sender, Receiver) {
    let bounds = QueueBounds { messages, bytes, payload: 4 };
    let lanes = Lanes::new(NonZero::<usize>::MIN);
    let (sender, receivers) = queue(lanes, Arc::default(), bounds, metrics.clone());
    (sender, receivers.into_iter().next().expect("a lane"))
}

fn message(payload: &'static str) -> Message {
    Message::now(Bytes::from_static(b"c"), Bytes::from_static(payload.as_bytes()))
}

async fn drain(receiver: &mut Receiver) -> Vec<String> {
    let mut batch = Vec::new();
    receiver.next(&mut batch).await;
    let name = |event: &Event| match event {
        Event::Message(message) => String::from_utf8_lossy(&message.payload).into_owned(),
        Event::Gap { gap, .. } | Event::ChannelGap { gap, .. } => format!("{:?}", gap.reason),
        Event::Dropped(dropped) => format!("{:?}", dropped.gap.reason),
    };
    batch.iter().map(name).collect()
}

#[tokio::test]
async fn messages_are_bounded_and_a_gap_marks_where_some_are_missing() {
    let metrics = Arc::new(Metrics::default());
    let (sender, mut receiver) = lane(2, 1000, &metrics);
    for payload in ["1", "2", "3", "4"] {
        sender.message(message(payload));
    }
    sender.gap(Gap { from: 0, to: 1, reason: GapReason::SourceLost });
    assert_eq!(drain(&mut receiver).await, ["1", "2", "QueueFull", "SourceLost"]);
    sender.message(message("5"));
    assert_eq!(drain(&mut receiver).await, ["5"]);
    assert_eq!(metrics.dropped(DropReason::QueueFull).get(), 2);
    assert_eq!(metrics.queue_messages.get(), 0);
    assert_eq!(metrics.queue_bytes.get(), 0);
    assert_eq!([metrics.gaps("queue_full").get(), metrics.gaps("source_lost").get()], [1, 1]);
    assert_eq!(metrics.gap_seconds("source_lost").get(), 0.001);
}

#[tokio::test(start_paused = true)]
async fn a_lane_is_not_ok_while_full_and_for_30_s_after_a_drop() {
    let metrics = Arc::new(Metrics::default());
    let lanes = Lanes::new(NonZero::new(2).expect("not 0"));
    let bounds = QueueBounds { messages: 4, bytes: 1000, payload: 4 };
    let (sender, mut receivers) = queue(lanes.clone(), Arc::default(), bounds, metrics.clone());
    let fill = sender.progress();
    let ok = |fill: &Progress| fill.lanes().iter().map(|lane| lane.ok).collect::<Vec<_>>();
    let channels: Vec<_> = (0..100).map(|name| Bytes::from(format!("c{name}"))).collect();
    let of = |lane: usize| {
        channels.iter().find(|channel| lanes.of(lanes.hash(channel)) == receivers[lane].lane())
    };
    let channel = of(1).expect("a channel").clone();
    sender.message(Message::now(channel.clone(), "1".into()));
    assert_eq!(ok(&fill), [true, true]);
    sender.message(Message::now(channel.clone(), "2".into()));
    assert_eq!(ok(&fill), [true, false], "full");
    drain(&mut receivers[1]).await;
    assert_eq!(ok(&fill), [true, true]);
    for payload in ["1", "2", "3"] {
        sender.message(Message::now(channel.clone(), payload.into()));
    }
    drain(&mut receivers[1]).await;
    assert_eq!(ok(&fill), [true, false], "the lane has dropped a message");
    let LaneReport { messages, messages_max, bytes, dropped, .. } = fill.lanes()[1];
    assert_eq!((messages, messages_max, bytes, dropped), (0, 2, 0, 1));
    tokio::time::advance(DROPPING).await;
    assert_eq!(ok(&fill), [true, true]);
}

#[tokio::test]
async fn bytes_are_bounded_exactly() {
    let (sender, mut receiver) = lane(100, 8, &Arc::default());
    // Channel and payload count: 4 + 4 bytes fit, one more byte does not.
    for payload in ["abc", "abc", "", "x"] {
        sender.message(message(payload));
    }
    assert_eq!(drain(&mut receiver).await, ["abc", "abc", "QueueFull"]);
}

#[tokio::test]
async fn a_payload_that_is_too_large_leaves_a_gap_in_its_channel() {
    let metrics = Arc::new(Metrics::default());
    let (sender, mut receiver) = lane(10, 100, &metrics);
    for payload in ["1234", "12345", "1"] {
        sender.message(message(payload));
    }
    assert_eq!(metrics.queue_bytes.get(), 5 + 1 + 2);
    assert_eq!(drain(&mut receiver).await, ["1234", "TooLarge", "1"]);
    assert_eq!(metrics.dropped(DropReason::TooLarge).get(), 1);
    assert_eq!(metrics.queue_messages.get(), 0);
    assert_eq!(metrics.queue_bytes.get(), 0);
}

#[tokio::test]
async fn the_queue_ends_when_the_sender_is_dropped_and_all_events_are_taken() {
    let (sender, mut receiver) = lane(10, 100, &Arc::default());
    sender.message(message("last"));
    drop(sender);
    assert_eq!(drain(&mut receiver).await, ["last"]);
    assert_eq!(receiver.next(&mut Vec::new()).await, None);
}

#[tokio::test]
async fn a_lane_is_idle_once_its_last_batch_is_delivered() {
    let lanes = Lanes::new(NonZero::new(2).expect("not 0"));
    let bounds = QueueBounds { messages: 10, bytes: 100, payload: 4 };
    let (sender, mut receivers) = queue(lanes.clone(), Arc::default(), bounds, Arc::default());
    let progress = sender.progress();
    let is_idle = || progress.idle().now_or_never().is_some();
    assert!(is_idle());
    sender.message(message("1"));
    assert!(!is_idle(), "a message is queued");
    let carries = |receiver: &&mut Receiver| lanes.of(lanes.hash(b"c")) == receiver.lane();
    let lane = receivers.iter_mut().find(carries).expect("its lane");
    assert_eq!(drain(lane).await, ["1"]);
    assert!(!is_idle(), "the message is being delivered");
    let idle = progress.idle();
    assert!(lane.next(&mut Vec::new()).now_or_never().is_none());
    idle.await;
}

#[tokio::test]
async fn a_full_lane_drops_only_its_own_messages() {
    let metrics = Arc::new(Metrics::default());
    let lanes = Lanes::new(NonZero::new(2).expect("not 0"));
    let bounds = QueueBounds { messages: 4, bytes: 1000, payload: 4 };
    let (sender, mut receivers) = queue(lanes.clone(), Arc::default(), bounds, metrics.clone());
    let channels: Vec<_> = (0..100).map(|name| Bytes::from(format!("c{name}"))).collect();
    let of = |lane: usize| {
        channels.iter().find(|channel| lanes.of(lanes.hash(channel)) == receivers[lane].lane())
    };
    let (full, other) = (of(0).expect("a channel").clone(), of(1).expect("a channel").clone());
    for payload in ["1", "2", "3"] {
        sender.message(Message::now(full.clone(), payload.into()));
    }
    sender.message(Message::now(other, "4".into()));
    sender.gap(Gap { from: 0, to: 1, reason: GapReason::SourceLost });
    assert_eq!(drain(&mut receivers[0]).await, ["1", "2", "QueueFull", "SourceLost"]);
    assert_eq!(drain(&mut receivers[1]).await, ["4", "SourceLost"]);
    assert_eq!(metrics.dropped(DropReason::QueueFull).get(), 1);
    assert_eq!((metrics.queue_messages.get(), metrics.queue_bytes.get()), (0, 0));
}

#[tokio::test]
async fn every_message_has_a_number_and_the_watermark_tells_which_are_placed() {
    let (sender, mut receiver) = lane(2, 1000, &Arc::default());
    let progress = sender.progress();
    sender.skip();
    assert_eq!(progress.watermark(0), 1, "none waits");
    for payload in ["2", "3", "dropped", "dropped"] {
        sender.message(message(payload));
    }
    sender.gap(Gap { from: 0, to: 1, reason: GapReason::SourceLost });
    assert_eq!(progress.watermark(0), 1);
    let mut batch = Vec::new();
    receiver.next(&mut batch).await;
    let numbers: Vec<_> = batch.iter().map(Event::number).collect();
    assert_eq!(numbers, [2, 3, 4, 6]);
    let Event::Dropped(dropped) = &batch[2] else { panic!("messages were dropped") };
    let channels = dropped.channels.as_ref().map(|channels| channels[&b"c"[..]]);
    assert_eq!((dropped.last, channels), (5, Some(5)));
    sender.message(message("7"));
    assert_eq!(progress.watermark(0), 1, "the events are in hand");
    batch.clear();
    receiver.next(&mut batch).await;
    assert_eq!(progress.watermark(0), 6);
    assert!(receiver.next(&mut Vec::new()).now_or_never().is_none());
    assert_eq!(progress.watermark(0), 7);
}

#[tokio::test]
async fn drops_in_many_channels_may_have_been_in_any() {
    let (sender, mut receiver) = lane(0, 0, &Arc::default());
    let (long, mut batch) = (Bytes::from(vec![b'x'; MAX_NAME + 1]), Vec::new());
    sender.message(Message::now(long, Bytes::new()));
    for number in 0..MAX_DROPPED_CHANNELS {
        sender.message(Message::now(number.to_string().into(), Bytes::new()));
    }
    let queued = sender.queues[0].lock().events.back().map(|(_, event)| event.clone());
    let Some(Event::Dropped(dropped)) = queued else { panic!("messages were dropped") };
    assert_eq!(dropped.channels.map(|channels| channels.len()), Some(MAX_DROPPED_CHANNELS));
    sender.message(Message::now("another".into(), Bytes::new()));
    receiver.next(&mut batch).await;
    let Event::Dropped(dropped) = &batch[0] else { panic!("messages were dropped") };
    assert_eq!((dropped.channels.as_ref(), dropped.first, dropped.last), (None, 1, 1002));
    assert_eq!(sender.queues[0].lock().dropped_channels, 0);
}

#[tokio::test]
async fn the_channels_of_all_queued_drops_together_are_bounded() {
    let (sender, mut receiver) = lane(100, 8, &Arc::default());
    let drop_in = |channel: String| sender.message(Message::now(channel.into(), "".into()));
    sender.message(message("abc"));
    (0..600).for_each(|number| drop_in(format!("a long name {number}")));
    sender.message(message("abc"));
    (0..600).for_each(|number| drop_in(format!("another name {number}")));
    let mut batch = Vec::new();
    receiver.next(&mut batch).await;
    let channels: Vec<_> = batch
        .iter()
        .filter_map(|event| match event {
            Event::Dropped(dropped) => Some(dropped.channels.as_ref().map(HashMap::len)),
            _ => None,
        })
        .collect();
    assert_eq!(channels, [Some(600), None]);
    assert_eq!(sender.queues[0].lock().dropped_channels, 0);
}
