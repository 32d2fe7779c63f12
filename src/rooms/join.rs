//! Joining a room: the answer, the replay, and the moment from which on messages are delivered.

use std::sync::Arc;

use serde::Serialize;

use super::{
    Gap, GapReason, Hold, MAX_COPIED, MAX_COPIED_BYTES, Member, Room, RoomState, Rooms, Subscriber,
    history::{HistoryEntry, Replay, ReplayRequest},
};
use crate::position::{Known, Position};

/// A client that is joining a room: receives the answer, then its replay in pieces. The methods must
/// not block.
pub trait Joining {
    /// The answer. May be called while the room is locked.
    fn welcome(&mut self, answer: &JoinReply<'_>);

    /// Called after the answer if not everything after the requested position is replayed: what is
    /// missing. May be called while the room is locked.
    fn missing(&mut self, gap: &Gap);

    /// The next messages of the replay, oldest first.
    fn replay(&mut self, messages: Vec<HistoryEntry>);

    /// Between the calls before and after this one, messages may be missing. May be called while the
    /// room is locked.
    fn gap(&mut self, gap: &Gap);
}

/// The acknowledgement of a join, as the client receives it.
#[derive(Serialize)]
pub struct JoinReply<'a> {
    /// The room's name.
    pub room: &'a Arc<str>,
    /// The position up to which the client has all messages of the room after the replay.
    #[serde(flatten)]
    pub position: &'a Position,
    /// Whether the replay contains every message after the requested position; `None` if the client
    /// requested no position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<bool>,
    /// How many messages of the history follow.
    pub replayed: usize,
    /// The server's version and build.
    pub server: &'static str,
}

/// The server's version and build.
const SERVER: &str = env!("ROOMCAST_BUILD");

impl Rooms {
    /// Adds `subscriber` to a room; with `again`, replaces the subscriber of that member. Returns the
    /// room's name, which all members share, and the membership.
    ///
    /// `client` receives the answer and the requested part of the history, with what is published
    /// meanwhile. The subscriber receives no message of the room before that, and every message after
    /// it.
    pub fn join(
        &self,
        name: &str,
        again: Option<Member>,
        subscriber: Arc<dyn Subscriber>,
        wish: &ReplayRequest,
        client: &mut dyn Joining,
    ) -> (Arc<str>, Member) {
        // Before the room is locked: what is placed meanwhile is found in the room.
        let placed = self.progress.watermark(self.index.lane(name));
        let sequence = self.progress.sequence();
        let since = wish.since.as_ref().and_then(|since| sequence.number(since));
        self.with_room(name, |room, mut hold| {
            self.expire_history(room, &mut hold);
            let number = placed.max(hold.history.end_number());
            let position = sequence.position(number);
            let replayed = hold.history.replay(wish, since.map(|since| since.number));
            let Replay { from, count, recovered } = replayed;
            let missing = (recovered == Some(false)).then(|| self.missing(&hold, since, from));
            self.metrics.joins(recovered).inc();
            let member = again.unwrap_or_else(|| {
                self.metrics.members.inc();
                hold.members.add()
            });
            let answer = JoinReply {
                room: &room.name,
                position: &position,
                recovered,
                replayed: count,
                server: SERVER,
            };
            if count == 0 {
                client.welcome(&answer);
                missing.iter().for_each(|gap| client.missing(gap));
                hold.members.set(&member, Some(subscriber));
            } else {
                // It keeps its place, which keeps the room, but receives nothing.
                hold.members.set(&member, None);
                let first = copy(&mut hold, from);
                drop(hold);
                client.welcome(&answer);
                missing.iter().for_each(|gap| client.missing(gap));
                replay(room, from, first, number, client).members.set(&member, Some(subscriber));
            }
            (room.name.clone(), member)
        })
    }

    /// What is missing to a client that requested a position, if it is known, and gets the history from
    /// index `from` on.
    fn missing(&self, room: &RoomState, since: Option<Known>, from: u64) -> Gap {
        let next = room.history.piece(from, 1, 1);
        let next = next.first().map_or_else(self.clock, |next| next.at);
        let unknown = Gap { from: 0, to: next, reason: GapReason::UnknownPosition };
        since.map_or(unknown, |since| room.missing_since(since, next))
    }
}

/// Replays the history from index `from` on, of which `piece` is the beginning, until nothing is
/// left. Returns the room locked at that moment.
fn replay<'a>(
    room: &'a Room,
    from: u64,
    mut piece: Vec<HistoryEntry>,
    position: u64,
    client: &mut dyn Joining,
) -> Hold<'a> {
    let mut next = from;
    loop {
        next += piece.len() as u64;
        let at = piece.last().map_or(0, |last| last.at);
        client.replay(piece);
        let mut hold = room.lock();
        let first = hold.history.first();
        if first > next {
            let to = hold.history.oldest().map_or(at, |oldest| oldest.at.max(at));
            client.gap(&Gap { from: at, to, reason: GapReason::Forgotten });
            next = first;
        }
        piece = copy(&mut hold, next);
        if piece.is_empty() {
            if let Some(gap) = hold.gap_after(position) {
                client.gap(&gap);
            }
            return hold;
        }
    }
}

/// The next entries from index `from` on.
fn copy(hold: &mut Hold<'_>, from: u64) -> Vec<HistoryEntry> {
    let piece = hold.history.piece(from, MAX_COPIED, MAX_COPIED_BYTES);
    hold.copied(piece.len());
    piece
}

/// What a client that joined in a test was told.
#[cfg(test)]
#[derive(Default)]
pub struct Joined {
    pub position: Option<Position>,
    pub recovered: Option<bool>,
    pub replayed: usize,
    pub missing: Option<Gap>,
    pub messages: Vec<HistoryEntry>,
    pub gaps: Vec<Gap>,
}

#[cfg(test)]
impl Joining for Joined {
    fn welcome(&mut self, answer: &JoinReply<'_>) {
        self.position = Some(answer.position.clone());
        (self.recovered, self.replayed) = (answer.recovered, answer.replayed);
    }

    fn missing(&mut self, gap: &Gap) {
        self.missing = Some(*gap);
    }

    fn replay(&mut self, messages: Vec<HistoryEntry>) {
        self.messages.extend(messages);
    }

    fn gap(&mut self, gap: &Gap) {
        self.gaps.push(*gap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{position::Epoch, rooms::MAX_ENCODED};

    #[test]
    fn the_answer_that_is_encoded_under_a_lock_is_short() {
        // The longest name, of characters that JSON writes with two bytes.
        let room = "\"".repeat(256).into();
        let epoch = "0".repeat(Epoch::NAME_LENGTH).into();
        let position = Position { epoch, offset: u64::MAX };
        let (recovered, replayed) = (Some(false), usize::MAX);
        let answer =
            JoinReply { room: &room, position: &position, recovered, replayed, server: SERVER };
        let encoded = serde_json::to_string(&answer).expect("JSON");
        assert!(encoded.len() <= MAX_ENCODED, "{} bytes", encoded.len());
    }
}
