//! The list of channels. It is renewed for all clients together, outside the rooms' locks, and one
//! request is answered at a time, on a thread of its own.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::Semaphore,
    task::spawn_blocking,
    time::{Instant, sleep},
};

use super::{
    Rooms,
    room::{Channel, Room},
};

/// The most rooms in an answer.
const MAX_CHANNELS: usize = 1000;
/// The longest pause between two renewals of the list.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The pause after a renewal is this many times as long as it took, so a short list is always new.
const PAUSE: u32 = 20;
/// Age at which the list is dropped if nobody asks any more. It keeps rooms that are gone.
const DROP_AFTER: Duration = Duration::from_secs(10);
/// After an answer that took a time, no other one is made for this many times as long: the answers
/// take a fifth of one core at most.
const REST: u32 = 4;
/// Times that are too short for such a pause.
const SHORT: Duration = Duration::from_millis(1);

/// The rooms that have had a message, the most recently published one first.
struct ChannelList {
    /// When they were listed, and how long that took.
    at: Instant,
    took: Duration,
    rooms: Arc<[Arc<Room>]>,
}

/// The latest list, and whose turn it is to read one.
pub struct Listing {
    latest: Mutex<Option<ChannelList>>,
    turn: Arc<Semaphore>,
}

impl Listing {
    pub fn new() -> Self {
        Self { latest: Mutex::default(), turn: Arc::new(Semaphore::new(1)) }
    }

    /// How long a request that came at `asked` has to wait for a list that is not older than itself.
    fn wait(&self, asked: Instant) -> Duration {
        let latest = self.latest.lock();
        let older = latest.as_ref().filter(|list| list.at <= asked);
        older.map_or(Duration::ZERO, |list| {
            LONGEST_PAUSE.min(list.took * PAUSE).saturating_sub(list.at.elapsed())
        })
    }

    /// Drops the list if it is old.
    pub fn expire(&self) {
        let mut latest = self.latest.lock();
        let is_old = |list: &ChannelList| list.at.elapsed() >= DROP_AFTER;
        let old = if latest.as_ref().is_some_and(is_old) { latest.take() } else { None };
        drop(latest);
        drop(old);
    }
}

impl Rooms {
    /// The rooms that have had a message and whose name passes `asked`, the most recently published
    /// one first. The flag says that there are more than the limit of 1,000. The list has all messages
    /// that arrived before the call; if it is long and was renewed shortly before, that takes up to a
    /// second.
    ///
    /// # Cancel safety
    /// Cancel safe: a call that is dropped returns its turn to others.
    pub async fn channels(
        self: Arc<Self>,
        asked: impl Fn(&str) -> bool + Send + 'static,
    ) -> (Vec<Channel>, bool) {
        let since = Instant::now();
        // The semaphore is never closed.
        let turn = self.listing.turn.clone().acquire_owned().await.ok();
        sleep(self.listing.wait(since)).await;
        let begin = Instant::now();
        let channels = spawn_blocking(move || self.list(asked, since)).await.unwrap_or_default();
        let took = begin.elapsed();
        if took > SHORT {
            tokio::spawn(async move {
                sleep(took * REST).await;
                drop(turn);
            });
        }
        channels
    }

    /// Reads a list that is not older than `since`.
    pub(super) fn list(
        &self,
        asked: impl Fn(&str) -> bool,
        since: Instant,
    ) -> (Vec<Channel>, bool) {
        let now = (self.clock)();
        let rooms = self.recent(since);
        let mut asked = rooms.iter().filter(|room| !room.is_gone() && asked(&room.name));
        let channels = asked.by_ref().take(MAX_CHANNELS).map(|room| room.channel(now)).collect();
        (channels, asked.next().is_some())
    }

    fn recent(&self, since: Instant) -> Arc<[Arc<Room>]> {
        let mut latest = self.listing.latest.lock();
        if let Some(list) = latest.as_ref().filter(|list| list.at > since) {
            return list.rooms.clone();
        }
        let at = Instant::now();
        let pieces = self.index.pieces(None).flatten();
        let mut rooms: Vec<_> = pieces.filter(|room| room.published() > 0).collect();
        rooms.sort_by_cached_key(|room| {
            (Reverse(room.published()), Reverse(room.listed()), room.name.clone())
        });
        let rooms: Arc<[_]> = rooms.into();
        *latest = Some(ChannelList { at, took: at.elapsed(), rooms: rooms.clone() });
        rooms
    }
}
