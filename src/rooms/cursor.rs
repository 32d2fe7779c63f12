//! Replays: a cursor reads a room's history for one member, piece by piece, until it has caught up
//! with what is published.

use std::{num::NonZero, sync::Arc};

use serde::Serialize;
use tokio::sync::SemaphorePermit;

use super::{
    Gap, GapReason, Hold, MAX_COPIED, MAX_COPIED_BYTES, Member, Rooms, Subscriber,
    delivery::Delivery, history::HistoryEntry, room::Room,
};

/// The replay of one member.
///
/// Until the cursor has reached the newest message, the fan-out passes the member by: what is
/// published meanwhile is read from the history as well. Then, under the room's lock, the member
/// becomes live. So at most one piece waits for a member that reads slowly, and a cursor holds no
/// messages. Whoever owns the membership reads it, and drops it when the member leaves or asks for
/// another replay.
pub struct ReplayCursor {
    room: Arc<Room>,
    /// What the member gets its messages by once it is live.
    subscriber: Arc<dyn Subscriber>,
    /// The index of the next message.
    next: u64,
    /// The index behind the last message that was there when the member joined.
    end: u64,
    /// When the latest message that was read arrived, in ms since the Unix epoch.
    at: u64,
    /// The member knows what is missing up to this number.
    number: u64,
}

/// What comes next in a replay.
pub enum Piece {
    /// Messages, oldest first: 256 at most, and none once their payloads have 64 KiB.
    Messages(Vec<HistoryEntry>),
    /// The newest of the messages that were published meanwhile: to be
    /// [delivered](ReplayCursor::deliver).
    Newest(HistoryEntry),
    /// Messages may be missing between those before and those after it.
    Gap(ReplayGap),
    /// Nothing: the member receives what is published from now on.
    Live,
}

/// A gap in a replay, as clients receive it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ReplayGap {
    /// The gap.
    #[serde(flatten)]
    pub gap: Gap,
    /// How many of the messages that were there when the member joined do not come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub omitted: Option<NonZero<u64>>,
}

impl From<Gap> for ReplayGap {
    fn from(gap: Gap) -> Self {
        Self { gap, omitted: None }
    }
}

impl Rooms {
    /// Waits until a piece may be read and encoded. Only a few are at a time, so that lanes and other
    /// connections do not wait for thousands of replays.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn replay_turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.replay_turns.acquire().await.ok()
    }
}

impl ReplayCursor {
    /// A cursor before the latest `count` messages of a room, for a member that knows of gaps up to
    /// a number.
    pub(super) fn new(
        (room, hold): (&Arc<Room>, &Hold<'_>),
        count: usize,
        number: u64,
        subscriber: Arc<dyn Subscriber>,
    ) -> Self {
        let end = hold.history.end();
        let next = end - count as u64;
        let oldest = hold.history.piece(next, 1, 1);
        let at = oldest.first().map_or(0, |oldest| oldest.at);
        Self { room: room.clone(), subscriber, next, end, at, number }
    }

    /// The rest of the replay for another subscriber of the same member.
    pub(super) fn with(self, subscriber: Arc<dyn Subscriber>) -> Self {
        Self { subscriber, ..self }
    }

    /// Delivers the newest message as a live one.
    pub fn deliver(&self, message: HistoryEntry) {
        self.subscriber.deliver(&Delivery::new(self.room.name.clone(), message).into());
    }

    /// Reads what comes next for the member whose cursor this is.
    pub fn next(&mut self, member: &Member) -> Piece {
        let room = self.room.clone();
        let mut hold = room.lock();
        let skips = self.subscriber.is_conflated();
        if skips && self.next >= self.end {
            return self.newest(&mut hold, member);
        }
        if hold.history.first() > self.next {
            return self.forgotten(&hold);
        }
        let left = if skips { self.end - self.next } else { u64::MAX };
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(MAX_COPIED);
        let mut messages = hold.history.piece(self.next, count, MAX_COPIED_BYTES);
        hold.copied(messages.len());
        let mut number = self.number;
        let follows = |message: &&HistoryEntry| {
            let follows = message.prev <= number;
            number = number.max(message.number);
            follows
        };
        let whole = messages.iter().take_while(follows).count();
        let behind = messages.get(whole).map_or(hold.history.floor(), |message| message.prev);
        if whole == 0 && behind > self.number {
            return self.hole(&hold, behind, messages.first());
        }
        messages.truncate(whole);
        let Some(last) = messages.last() else { return self.live(&mut hold, member) };
        self.next += messages.len() as u64;
        (self.at, self.number) = (last.at, self.number.max(last.number));
        Piece::Messages(messages)
    }

    fn live(&self, hold: &mut Hold<'_>, member: &Member) -> Piece {
        hold.members.set(member, Some(self.subscriber.clone()));
        Piece::Live
    }

    /// The newest message alone, if there is one that has not been read.
    fn newest(&mut self, hold: &mut Hold<'_>, member: &Member) -> Piece {
        if let Some((gap, number)) = hold.gap_after(self.number) {
            self.number = number;
            return Piece::Gap(gap.into());
        }
        let newest = hold.history.latest().filter(|_| hold.history.end() > self.next).cloned();
        let Some(newest) = newest else { return self.live(hold, member) };
        self.next = hold.history.end();
        (self.at, self.number) = (newest.at, newest.number);
        Piece::Newest(newest)
    }

    /// Messages that the cursor has not read are no longer kept.
    fn forgotten(&mut self, hold: &Hold<'_>) -> Piece {
        let next = hold.history.first();
        let oldest = hold.history.oldest();
        // If nothing is left, up to the room's latest message.
        let to = oldest.map_or_else(|| self.room.published(), |oldest| oldest.at).max(self.at);
        let gap = Gap { from: self.at, to, reason: GapReason::Forgotten };
        let omitted = NonZero::new(next.min(self.end).saturating_sub(self.next));
        let number = oldest.map_or(hold.history.floor(), |oldest| oldest.prev);
        (self.next, self.number) = (next, self.number.max(number));
        Piece::Gap(ReplayGap { gap, omitted })
    }

    /// Messages up to a number may be missing; `next` comes behind them.
    fn hole(&mut self, hold: &Hold<'_>, number: u64, next: Option<&HistoryEntry>) -> Piece {
        // Of several gaps, the room knows the latest one.
        let known = hold.gap_after(0).filter(|(_, at)| *at == number).map(|(gap, _)| gap);
        let gap = known.unwrap_or_else(|| {
            let begins = next.is_some_and(|next| next.epoch.base > self.number);
            let reason = if begins { GapReason::SourceLost } else { GapReason::QueueFull };
            Gap { from: self.at, to: next.map_or(self.at, |next| next.at), reason }
        });
        self.number = number;
        Piece::Gap(gap.into())
    }
}
