//! Joining a room: the answer, and the replay or the moment from which on messages are delivered.

use std::sync::Arc;

use serde::Serialize;

use super::{
    Gap, GapReason, Member, RoomState, Rooms, Subscriber,
    cursor::ReplayCursor,
    history::{ReplayRequest, Selection},
};
use crate::position::{Known, Position};

/// A client that has joined a room.
pub struct Joined {
    /// The room's name, which all members share.
    pub room: Arc<str>,
    /// The membership.
    pub member: Member,
    /// The replay, if there is one. The member receives nothing until it has been read to its end.
    pub replay: Option<ReplayCursor>,
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
    /// Adds `subscriber` to a room. With `again`, replaces the subscriber of that member, and its
    /// replay if another one is requested.
    ///
    /// `welcome` sends the answer, and what is missing if not all messages after the requested position
    /// are replayed. It may be called while the room is locked, so it must not block. The subscriber
    /// receives every message that is published after the replay, or after the answer if there is no
    /// replay.
    pub fn join(
        &self,
        name: &str,
        again: Option<(Member, Option<ReplayCursor>)>,
        subscriber: Arc<dyn Subscriber>,
        request: &ReplayRequest,
        welcome: impl FnOnce(&JoinReply<'_>, Option<&Gap>),
    ) -> Joined {
        // Before the room is locked: what is placed meanwhile is found in the room.
        let placed = self.progress.watermark(self.index.lane(name));
        let sequence = self.progress.sequence();
        let since = request.since.as_ref().and_then(|since| sequence.number(since));
        self.with_room(name, |room, mut hold| {
            self.expire_history(room, &mut hold);
            let number = placed.max(hold.history.end_number());
            let position = sequence.position(number);
            let selection = hold.history.select(request, since.map(|since| since.number));
            let Selection { count, recovered } = selection;
            let missing = (recovered == Some(false)).then(|| self.missing(&hold, since, count));
            self.metrics.joins(recovered).inc();
            let (member, before) = again.unwrap_or_else(|| {
                self.metrics.members.inc();
                (hold.members.add(), None)
            });
            let replay = if count > 0 {
                Some(ReplayCursor::new((room, &hold), count, number, subscriber.clone()))
            } else {
                // Another join of the same room does not stop a replay that is under way.
                let goes_on = *request == ReplayRequest::default();
                before.filter(|_| goes_on).map(|before| before.with(subscriber.clone()))
            };
            let answer = JoinReply {
                room: &room.name,
                position: &position,
                recovered,
                replayed: count,
                server: SERVER,
            };
            if replay.is_some() {
                // It keeps its place, which keeps the room, but receives nothing.
                hold.members.set(&member, None);
                drop(hold);
                welcome(&answer, missing.as_ref());
            } else {
                welcome(&answer, missing.as_ref());
                hold.members.set(&member, Some(subscriber));
            }
            Joined { room: room.name.clone(), member, replay }
        })
    }

    /// What is missing to a client that requested a position, if it is known, and gets the latest
    /// `count` messages.
    fn missing(&self, room: &RoomState, since: Option<Known>, count: usize) -> Gap {
        let next = room.history.piece(room.history.end() - count as u64, 1, 1);
        let next = next.first().map_or_else(self.clock, |next| next.at);
        let unknown = Gap { from: 0, to: next, reason: GapReason::UnknownPosition };
        since.map_or(unknown, |since| room.missing_since(since, next))
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
