//! A client in the tests of rooms: joins a room and reads its replay.

use std::{num::NonZero, sync::Arc};

use super::{
    Gap, Joined, Member, Rooms, Subscriber,
    cursor::{Piece, ReplayGap},
    history::{HistoryEntry, ReplayRequest},
};
use crate::position::Position;

/// What a client was sent: the answer to its join, and its replay.
#[derive(Default)]
pub struct TestClient {
    pub position: Option<Position>,
    pub recovered: Option<bool>,
    pub replayed: usize,
    pub missing: Option<Gap>,
    pub messages: Vec<HistoryEntry>,
    pub gaps: Vec<Gap>,
    pub omitted: u64,
}

impl TestClient {
    /// Joins a room and reads the whole replay.
    pub fn join(
        rooms: &Rooms,
        name: &str,
        subscriber: Arc<dyn Subscriber>,
        request: &ReplayRequest,
    ) -> (Member, Self) {
        let (mut joined, mut client) = Self::begin(rooms, name, subscriber, request);
        while client.read(&mut joined) {}
        (joined.member, client)
    }

    /// Joins a room.
    pub fn begin(
        rooms: &Rooms,
        name: &str,
        subscriber: Arc<dyn Subscriber>,
        request: &ReplayRequest,
    ) -> (Joined, Self) {
        let mut client = Self::default();
        let joined = rooms.join(name, None, subscriber, request, |reply, missing| {
            client.position = Some(reply.position.clone());
            (client.recovered, client.replayed) = (reply.recovered, reply.replayed);
            client.missing = missing.copied();
        });
        (joined, client)
    }

    /// Reads the next piece of the replay; `false` if there is none.
    pub fn read(&mut self, joined: &mut Joined) -> bool {
        let Some(cursor) = &mut joined.replay else { return false };
        match cursor.next(&joined.member) {
            Piece::Messages(messages) => self.messages.extend(messages),
            Piece::Newest(message) => cursor.deliver(message),
            Piece::Gap(ReplayGap { gap, omitted }) => {
                self.gaps.push(gap);
                self.omitted += omitted.map_or(0, NonZero::get);
            }
            Piece::Live => joined.replay = None,
        }
        true
    }
}
