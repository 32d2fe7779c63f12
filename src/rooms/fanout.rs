//! Fan-out: takes messages from a lane's queue and delivers them to the members of their rooms, in
//! the order in which they arrived. One task runs [`run`] for each lane.

use std::{
    collections::HashMap,
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    runtime::Handle,
    task::{JoinSet, yield_now},
    time::interval,
};
use tracing::info;

use crate::{
    clock::now,
    ingest::Receiver,
    log_limit::LogLimit,
    message::{Dropped, Event, Gap, Message},
    metrics::{DropReason, Metrics},
    position::Epoch,
    rooms::{
        MemberSnapshot, Rooms,
        delivery::{Batch, Delivery},
        members::CHUNK,
    },
};

/// Interval of the sweep for rooms whose history is too old. Such messages are never replayed; they
/// only use memory until the next sweep.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// Deliveries to members before the task yields, so that accepts, pongs and the source are not
/// delayed for longer. The members of a larger room are shared out among the worker threads.
const TURN: usize = CHUNK;
/// Bytes delivered before the task yields. They count as backlog until the kernel has accepted
/// them: without the yield, a burst would look as if no client could keep up.
const TURN_BYTES: usize = 16 << 20;
/// Payload bytes after which a batch ends, so that one turn serves many members.
const PART: usize = 64 << 10;

static BAD_CHANNEL: LogLimit = LogLimit::new(1);

/// Removes history that is too old, every 10 s. Never returns.
pub async fn sweep(rooms: Arc<Rooms>) {
    let mut sweeps = interval(SWEEP_EVERY);
    loop {
        sweeps.tick().await;
        rooms.expire(now()).await;
    }
}

/// Delivers the events of one lane until its queue ends.
///
/// The metric `delay` is observed once per batch of events if any message of it was delivered: from
/// the arrival of the batch's first event until all of it was delivered. So it is the longest delay
/// in the batch, and costs the same however many members there are.
pub async fn run(mut queue: Receiver, rooms: Arc<Rooms>, metrics: Arc<Metrics>) {
    let mut batch = Vec::new();
    while let Some(arrived) = queue.next(&mut batch).await {
        let mut delivered = 0;
        let mut waiting = PendingMessages::default();
        let first = batch.first().map_or(0, Event::number);
        let mut epoch = rooms.epoch(first);
        for event in batch.drain(..) {
            match event {
                Event::Message(message) => waiting.add(message),
                Event::Gap { gap, number } => {
                    delivered += waiting.send(&rooms, &epoch, &metrics).await;
                    epoch = rooms.epoch(number);
                    tell_lane(&rooms, queue.lane(), &gap, number).await;
                }
                Event::ChannelGap { channel, gap, number } => {
                    delivered += waiting.send(&rooms, &epoch, &metrics).await;
                    tell_channel(&rooms, &channel, &gap, number);
                }
                Event::Dropped(dropped) => {
                    delivered += waiting.send(&rooms, &epoch, &metrics).await;
                    let Dropped { gap, last, channels, .. } = *dropped;
                    match channels {
                        None => tell_lane(&rooms, queue.lane(), &gap, last).await,
                        Some(channels) => {
                            for (channel, number) in channels {
                                if tell_channel(&rooms, &channel, &gap, number) >= TURN {
                                    yield_now().await;
                                }
                            }
                        }
                    }
                }
            }
        }
        delivered += waiting.send(&rooms, &epoch, &metrics).await;
        if delivered > 0 {
            metrics.delay.observe(arrived.elapsed().as_secs_f64());
        }
    }
}

/// Tells the members of all rooms of a lane about a gap.
async fn tell_lane(rooms: &Rooms, lane: usize, gap: &Gap, number: u64) {
    let mut told = 0;
    for (room, members) in rooms.interrupt(lane, gap, number) {
        told += tell(&room, &members, gap);
        if told >= TURN {
            told = 0;
            yield_now().await;
        }
    }
}

/// Tells the members of a channel's room about a gap, and returns how many there are.
fn tell_channel(rooms: &Rooms, channel: &[u8], gap: &Gap, number: u64) -> usize {
    let Ok(name) = std::str::from_utf8(channel) else { return 0 };
    tell(name, &rooms.interrupt_one(name, gap, number), gap)
}

/// Tells members about a gap, and returns how many there are.
fn tell(room: &str, members: &MemberSnapshot, gap: &Gap) -> usize {
    members.iter().for_each(|member| member.gap(room, gap));
    members.len()
}

/// Messages that are not delivered yet, by channel. Those of one channel are delivered together:
/// they are encoded once, and written once for each member.
#[derive(Default)]
struct PendingMessages {
    channels: Vec<(Bytes, Vec<Message>)>,
    places: HashMap<Bytes, usize>,
}

impl PendingMessages {
    fn add(&mut self, message: Message) {
        let place = *self.places.entry(message.channel.clone()).or_insert_with(|| {
            self.channels.push((message.channel.clone(), Vec::new()));
            self.channels.len() - 1
        });
        self.channels[place].1.push(message);
    }

    /// Delivers all messages, which are of one epoch, and returns how many deliveries the members accepted.
    async fn send(&mut self, rooms: &Rooms, epoch: &Arc<Epoch>, metrics: &Metrics) -> usize {
        self.places.clear();
        let (mut served, mut sent, mut delivered) = (0, 0, 0);
        for (channel, messages) in self.channels.drain(..) {
            let name = std::str::from_utf8(&channel).ok();
            let Some(name) = name.filter(|name| Rooms::check_name(name).is_ok()) else {
                let count = messages.len() as u64;
                metrics.dropped(DropReason::BadChannel).inc_by(count);
                BAD_CHANNEL.count(count, |messages| {
                    info!(messages, "dropped messages whose channel cannot be the name of a room");
                });
                continue;
            };
            let Some((members, deliveries)) = rooms.place(name, epoch, messages) else { continue };
            for part in parts(deliveries) {
                (served, sent) = (served + members.len(), sent + members.len() * size(&part));
                let taken = hand_out(&members, part).await;
                metrics.deliveries.inc_by(taken as u64);
                delivered += taken;
                if served >= TURN || sent >= TURN_BYTES {
                    (served, sent) = (0, 0);
                    yield_now().await;
                }
            }
        }
        delivered
    }
}

/// Delivers a batch to a room's members and returns how many deliveries they accepted. For a large
/// room, one task per worker thread takes the next members in turn.
async fn hand_out(members: &MemberSnapshot, batch: Batch) -> usize {
    let turn = TURN.min(TURN_BYTES / size(&batch).max(1)).max(1);
    if members.len() <= turn {
        return members.iter().map(|member| member.deliver(&batch)).sum();
    }
    let shared = Arc::new((members.clone(), batch, AtomicUsize::new(0)));
    let cores = Handle::current().metrics().num_workers();
    let hands = (0..cores).map(|_| {
        let shared = shared.clone();
        async move {
            let (members, batch, next) = &*shared;
            let mut taken = 0;
            while let Some(mut these) = members.chunk(next.fetch_add(1, Relaxed)) {
                // Large messages take several turns for the members of one chunk.
                loop {
                    let mut seen = 0;
                    for member in these.by_ref().take(turn) {
                        taken += member.deliver(batch);
                        seen += 1;
                    }
                    yield_now().await;
                    if seen < turn {
                        break;
                    }
                }
            }
            taken
        }
    });
    hands.collect::<JoinSet<usize>>().join_all().await.into_iter().sum()
}

/// Splits deliveries into batches: a batch ends once its payloads have [`PART`] bytes or more.
fn parts(deliveries: Vec<Delivery>) -> Vec<Batch> {
    let (mut parts, mut part, mut bytes) = (Vec::new(), Vec::new(), 0);
    for delivery in deliveries {
        bytes += delivery.payload.len();
        part.push(delivery);
        if bytes >= PART {
            parts.push(mem::take(&mut part).into());
            bytes = 0;
        }
    }
    if !part.is_empty() {
        parts.push(part.into());
    }
    parts
}

/// Bytes of the payloads.
fn size(part: &[Delivery]) -> usize {
    part.iter().map(|delivery| delivery.payload.len()).sum()
}

#[cfg(test)]
mod tests;
