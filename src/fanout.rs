//! Fan-out: messages in, out to their rooms' members, in the order in which they came.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use tokio::task::yield_now;

use crate::{
    broker::{Event, Message, Receiver},
    metrics::{Drop, Metrics},
    rooms::Rooms,
};

/// Members served before others may run: accepts, pongs and the source wait no longer than this.
const TURN: usize = 256;

/// Takes events until the queue has ended.
pub async fn run(mut queue: Receiver, rooms: Arc<Rooms>, metrics: Arc<Metrics>) {
    let mut batch = Vec::new();
    while queue.next(&mut batch).await {
        let mut waiting = Waiting::default();
        for event in batch.drain(..) {
            match event {
                Event::Message(message) => waiting.add(message),
                // Whether an outage ends or begins: what comes next does not follow on what was.
                Event::Dropped | Event::Down | Event::Up => {
                    waiting.send(&rooms, &metrics).await;
                    rooms.break_all();
                }
            }
        }
        waiting.send(&rooms, &metrics).await;
    }
}

/// Messages that wait, by channel. Those of one channel go out together: each member's writer
/// wakes and flushes once for all of them.
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

    async fn send(&mut self, rooms: &Rooms, metrics: &Metrics) {
        self.places.clear();
        for (channel, messages) in self.channels.drain(..) {
            let Ok(name) = std::str::from_utf8(&channel) else {
                metrics.dropped(Drop::BadChannel).inc_by(messages.len() as u64);
                continue;
            };
            let Some((members, deliveries)) = rooms.place(name, messages) else { continue };
            let mut taken = 0;
            for (served, outlet) in members.values().enumerate() {
                taken += outlet.deliver(&deliveries);
                if served % TURN == TURN - 1 {
                    yield_now().await;
                }
            }
            metrics.deliveries.inc_by(taken as u64);
        }
    }
}
