//! Fan-out: messages in, out to their rooms' members, in the order in which they came. Each lane is
//! one run of it.

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
    message::{Event, Message},
    metrics::{DropReason, Metrics},
    rooms::{
        Members, Rooms,
        delivery::{Batch, Delivery},
    },
};

/// How often what is too old is looked for; it is never told, only kept for so much longer.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// Members served before others may run: accepts, pongs and the source wait no longer than this.
/// If a room has more, its members are shared out among the cores.
const TURN: usize = 256;
/// Bytes handed out before others may run. They count as waiting until the kernel has taken them:
/// a burst must not look as if nobody kept up.
const TURN_BYTES: usize = 16 << 20;
/// Bytes that go to a member at once, so that a turn is shared by many.
const PART: usize = 64 << 10;

static BAD_CHANNEL: LogLimit = LogLimit::new(1);

/// Forgets what is too old, again and again.
pub async fn sweep(rooms: Arc<Rooms>) {
    let mut sweeps = interval(SWEEP_EVERY);
    loop {
        sweeps.tick().await;
        rooms.expire(now());
    }
}

/// Takes a lane's events until its queue has ended.
///
/// The delay is observed once a batch of which something was delivered: from the arrival of its first
/// event until all of it was handed out. So it is the longest of the batch, and costs the same however
/// many viewers there are.
pub async fn run(mut queue: Receiver, rooms: Arc<Rooms>, metrics: Arc<Metrics>) {
    let mut batch = Vec::new();
    while let Some(arrived) = queue.next(&mut batch).await {
        let mut delivered = 0;
        let mut waiting = Waiting::default();
        for event in batch.drain(..) {
            match event {
                Event::Message(message) => waiting.add(message),
                Event::Gap(gap) => {
                    delivered += waiting.send(&rooms, &metrics).await;
                    rooms.gap(&gap, |room| queue.carries(room.as_bytes()));
                }
                Event::ChannelGap { channel, gap } => {
                    delivered += waiting.send(&rooms, &metrics).await;
                    if let Ok(name) = std::str::from_utf8(&channel) {
                        rooms.gap_in(name, &gap);
                    }
                }
            }
        }
        delivered += waiting.send(&rooms, &metrics).await;
        if delivered > 0 {
            metrics.delay.observe(arrived.elapsed().as_secs_f64());
        }
    }
}

/// Messages that wait, by channel. Those of one channel go out together: they are encoded once, and
/// written once for each member.
#[derive(Default)]
struct Waiting {
    channels: Vec<(Bytes, Vec<Message>)>,
    places: HashMap<Bytes, usize>,
}

impl Waiting {
    fn add(&mut self, message: Message) {
        let place = *self.places.entry(message.channel.clone()).or_insert_with(|| {
            self.channels.push((message.channel.clone(), Vec::new()));
            self.channels.len() - 1
        });
        self.channels[place].1.push(message);
    }

    /// Hands them out; how many deliveries were taken.
    async fn send(&mut self, rooms: &Rooms, metrics: &Metrics) -> usize {
        self.places.clear();
        let (mut served, mut sent, mut delivered) = (0, 0, 0);
        for (channel, messages) in self.channels.drain(..) {
            let name = std::str::from_utf8(&channel).ok();
            let Some(name) = name.filter(|name| Rooms::check_name(name).is_ok()) else {
                let count = messages.len() as u64;
                metrics.dropped(DropReason::BadChannel).inc_by(count);
                BAD_CHANNEL.count(count, |messages| {
                    info!(
                        messages,
                        "dropped what was published on channels that are no rooms' names"
                    );
                });
                continue;
            };
            let Some((members, deliveries)) = rooms.place(name, messages) else { continue };
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

/// Hands messages to a room's members; how many were taken.
async fn hand_out(members: &Members, batch: Batch) -> usize {
    let turn = TURN.min(TURN_BYTES / size(&batch).max(1)).max(1);
    if members.len() <= turn {
        return members.values().map(|member| member.deliver(&batch)).sum();
    }
    let shared = Arc::new((members.clone(), batch, AtomicUsize::new(0)));
    let cores = Handle::current().metrics().num_workers();
    let hands = (0..cores).map(|_| {
        let shared = shared.clone();
        async move {
            let (members, batch, next) = &*shared;
            let mut taken = 0;
            loop {
                let first = next.fetch_add(turn, Relaxed);
                if first >= members.len() {
                    return taken;
                }
                let these = members.values().skip(first).take(turn);
                taken += these.map(|member| member.deliver(batch)).sum::<usize>();
                yield_now().await;
            }
        }
    });
    hands.collect::<JoinSet<usize>>().join_all().await.into_iter().sum()
}

/// Deliveries that go to a member together: all, unless they are large.
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

fn size(part: &[Delivery]) -> usize {
    part.iter().map(|delivery| delivery.payload.len()).sum()
}

#[cfg(test)]
mod tests;
