//! The order in which histories are forgotten: the messages of a part of the rooms, in steps.
//!
//! A step lists the rooms that had a message while it lasted. All its messages are forgotten together,
//! but for the latest one of each room. So the order costs a room a few bytes for each step, and not
//! for each message.

use std::{collections::VecDeque, mem::size_of};

use crate::memory::allocated;

/// When a step ends.
#[derive(Clone, Copy, Debug)]
pub struct StepBounds {
    /// After this many ms.
    pub time: u64,
    /// After this many bytes of payloads.
    pub bytes: usize,
}

/// Messages that are forgotten together.
pub struct Step {
    /// When the first message arrived, in ms since the Unix epoch.
    began: u64,
    /// When the latest message arrived.
    pub ended: u64,
    bytes: usize,
    /// The number of the latest message.
    pub latest: u64,
    /// The slots of the rooms, each once.
    pub rooms: Vec<u32>,
}

/// The steps of a part of the rooms, the oldest one first.
#[derive(Default)]
pub struct Steps {
    steps: VecDeque<Step>,
    /// How many steps have been forgotten.
    forgotten: u32,
}

impl Step {
    /// Bytes that the list of rooms takes.
    pub fn size(&self) -> usize {
        allocated(self.rooms.capacity() * size_of::<u32>()) + size_of::<Self>()
    }
}

impl Steps {
    /// Adds messages of a room: `last` is the step in which it had its latest ones before, and becomes
    /// the current one. Returns how many bytes the steps have grown.
    pub fn add(
        &mut self,
        bounds: StepBounds,
        slot: u32,
        last: &mut u32,
        (number, at, bytes): (u64, u64, usize),
    ) -> usize {
        let is_over = |step: &Step| {
            at.saturating_sub(step.began) >= bounds.time || step.bytes >= bounds.bytes
        };
        let before = if self.steps.back().is_none_or(is_over) {
            let rooms = Vec::new();
            self.steps.push_back(Step { began: at, ended: at, bytes: 0, latest: 0, rooms });
            0
        } else {
            self.steps.back().map_or(0, Step::size)
        };
        // The count goes round after years.
        let current = self.forgotten.wrapping_add(self.steps.len() as u32);
        let Some(step) = self.steps.back_mut() else { return 0 };
        step.bytes += bytes;
        step.latest = number;
        step.ended = step.ended.max(at);
        if *last != current {
            *last = current;
            step.rooms.push(slot);
        }
        step.size() - before
    }

    /// When the oldest step ended, in ms since the Unix epoch.
    pub fn oldest(&self) -> Option<u64> {
        self.steps.front().map(|step| step.ended)
    }

    /// Bytes of all steps.
    #[cfg(test)]
    pub fn size(&self) -> usize {
        self.steps.iter().map(Step::size).sum()
    }

    /// When the first message of the oldest step arrived, in ms since the Unix epoch.
    pub fn oldest_message(&self) -> Option<u64> {
        self.steps.front().map(|step| step.began)
    }

    /// Takes the oldest step.
    pub fn take(&mut self) -> Option<Step> {
        let step = self.steps.pop_front()?;
        self.forgotten = self.forgotten.wrapping_add(1);
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_ends_after_its_time_or_bytes_and_has_each_room_once() {
        let bounds = StepBounds { time: 10, bytes: 100 };
        let mut steps = Steps::default();
        let mut last = [0; 2];
        let messages = [(0, 1, 5), (1, 2, 5), (0, 9, 5), (0, 11, 100), (0, 12, 1), (0, 5, 1)];
        let mut size = 0;
        for (number, (room, at, bytes)) in (1u64..).zip(messages) {
            let message = (number, at, bytes);
            size += steps.add(bounds, room as u32, &mut last[room], message);
        }
        let taken: Vec<_> = std::iter::from_fn(|| steps.take()).collect();
        let shown: Vec<_> =
            taken.iter().map(|step| (&step.rooms[..], step.latest, step.ended)).collect();
        assert_eq!(shown, [(&[0, 1][..], 3, 9), (&[0], 4, 11), (&[0], 6, 12)]);
        assert_eq!(size, taken.iter().map(Step::size).sum::<usize>());
    }
}
