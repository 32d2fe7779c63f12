//! The replays of a socket: a task sends one piece after the other, whenever nothing waits.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use tokio::task::yield_now;
use tokio_util::task::AbortOnDropHandle;

use super::{Membership, Viewer, ViewerState};
use crate::{engine::session::Session, rooms::Rooms, rooms::cursor::Piece};

/// The rooms of a socket whose replays are not complete.
#[derive(Default)]
pub struct Replays {
    /// They take turns, a piece each. A room that was left meanwhile has nothing to send.
    rooms: VecDeque<Arc<str>>,
    /// Runs while there is a room.
    task: Option<AbortOnDropHandle<()>>,
}

impl Viewer {
    /// The replay of a room begins.
    pub(super) fn begin_replay(&self, state: &mut ViewerState, room: Arc<str>) {
        let Replays { rooms, task } = &mut state.replays;
        if rooms.contains(&room) {
            return;
        }
        rooms.push_back(room);
        if rooms.len() == 1 {
            let run = run(self.me.clone(), self.session.clone(), self.shared.rooms.clone());
            *task = Some(AbortOnDropHandle::new(tokio::spawn(run)));
        }
    }

    /// Sends the next piece. Returns whether more is to come.
    fn replay_next(&self) -> bool {
        let mut state = self.state.lock();
        if let Some(room) = state.replays.rooms.pop_front()
            && state.rooms.get_mut(&room).is_some_and(|joined| joined.replay_next(&room))
        {
            state.replays.rooms.push_back(room);
        }
        let goes_on = !state.replays.rooms.is_empty();
        if !goes_on {
            // The task is about to end; its handle would keep its memory.
            state.replays.task.take().map(AbortOnDropHandle::detach);
        }
        goes_on
    }
}

impl Membership {
    /// Sends the next piece of the replay. Returns whether more is to come.
    fn replay_next(&mut self, room: &Arc<str>) -> bool {
        let Some(cursor) = &mut self.replay else { return false };
        match cursor.next(&self.member) {
            Piece::Messages(messages) => self.subscriber.replay(room, messages),
            Piece::Newest(message) => cursor.deliver(message),
            Piece::Gap(gap) => self.subscriber.gap_in_replay(room, &gap),
            Piece::Live => self.replay = None,
        }
        self.replay.is_some()
    }
}

/// Sends the replays of a socket until all are complete.
async fn run(viewer: Weak<Viewer>, session: Arc<Session>, rooms: Arc<Rooms>) {
    loop {
        session.drained().await;
        let turn = rooms.replay_turn().await;
        if session.is_closed() {
            return;
        }
        // Messages of other rooms may have been sent meanwhile.
        if session.is_drained() {
            let Some(viewer) = viewer.upgrade() else { return };
            if !viewer.replay_next() {
                return;
            }
        }
        drop(turn);
        // The fan-out goes first.
        yield_now().await;
    }
}
