//! Reading the history of a room piece by piece, without joining it.

use std::sync::Arc;

use super::{MAX_COPIED, MAX_COPIED_BYTES, Rooms, history::HistoryEntry, room::Room};
use crate::position::Position;

/// The history of one room, to be read in pieces. Each piece is copied in one hold of the room's lock.
pub struct Past {
    /// Up to which position the room is read: all its messages up to there are in the pieces, as far as
    /// they are kept.
    pub position: Position,
    /// `None`: the room does not exist.
    room: Option<Arc<Room>>,
    /// The index of the next entry, and of the first one that is not read.
    next: u64,
    end: u64,
}

impl Rooms {
    /// The latest messages of a room, at most `count`.
    pub fn past(&self, name: &str, count: usize) -> Past {
        let placed = self.progress.watermark(self.index.lane(name));
        let position = |number| self.progress.sequence().position(number);
        let Some(room) = self.index.get(name) else {
            return Past { position: position(placed), room: None, next: 0, end: 0 };
        };
        let mut hold = room.lock();
        self.expire_history(&room, &mut hold);
        let end = hold.history.end();
        let next = end.saturating_sub(count as u64);
        let position = position(placed.max(hold.history.end_number()));
        drop(hold);
        Past { position, room: Some(room), next, end }
    }
}

impl Past {
    /// The next entries, oldest first: 256 at most, and none once their payloads have 256 KiB. What was
    /// forgotten since the call before is left out. `None` at the end.
    pub fn piece(&mut self) -> Option<Vec<HistoryEntry>> {
        let room = self.room.as_ref()?;
        let mut hold = room.lock();
        self.next = self.next.max(hold.history.first());
        let left = usize::try_from(self.end.saturating_sub(self.next)).unwrap_or(usize::MAX);
        let piece = hold.history.piece(self.next, left.min(MAX_COPIED), MAX_COPIED_BYTES);
        hold.copied(piece.len());
        drop(hold);
        self.next += piece.len() as u64;
        (!piece.is_empty()).then_some(piece)
    }
}
