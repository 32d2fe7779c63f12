//! Who connects where, and what each will have got if all is well.

use super::{target::Target, viewer::Pace};

/// Who connects where.
pub struct Plan {
    /// The server.
    pub target: Target,
    /// How many in all.
    pub viewers: usize,
    /// How many rooms they are spread over.
    pub rooms: usize,
    /// The first so many stop reading once they have joined.
    pub stalled: usize,
    /// The next so many are slow.
    pub slow: usize,
    /// Bytes a second that a slow one takes.
    pub slow_rate: u64,
    /// Connections begun a second at most.
    pub connect_rate: Option<f64>,
    /// Bytes of a payload.
    pub size: usize,
    /// What tells this benchmark's messages from others'.
    pub run: u32,
    /// How many threads.
    pub threads: usize,
}

impl Plan {
    /// A room's name: no two runs share one.
    pub fn room_name(&self, room: u32) -> String {
        format!("bench-{:08x}-{room}", self.run)
    }

    /// How the viewer of this number reads.
    pub fn pace(&self, number: usize) -> Pace {
        match number {
            _ if number < self.stalled => Pace::Stalled,
            _ if number < self.stalled + self.slow => Pace::Slow,
            _ => Pace::Brisk,
        }
    }

    /// How many deliveries so many messages make, given to the rooms in turn; only those to
    /// viewers that read all count.
    pub fn expected(&self, published: u64) -> u64 {
        let (each, rest) = (published / self.rooms as u64, published % self.rooms as u64);
        let brisk = (0..self.viewers).filter(|&number| self.pace(number) == Pace::Brisk);
        brisk.map(|number| each + u64::from(((number % self.rooms) as u64) < rest)).sum()
    }
}
