//! The plan of a benchmark: viewers and their rooms, and how many deliveries to expect.

use super::{target::Target, viewer::Pace};

/// The plan of a benchmark: the server, the viewers, their rooms and the messages.
pub struct Plan {
    /// The server to connect to.
    pub target: Target,
    /// Number of viewers, including the stalled and slow ones.
    pub viewers: usize,
    /// Number of rooms; viewer n is in room n modulo this.
    pub rooms: usize,
    /// Number of viewers, the first ones, that stop reading once they have joined.
    pub stalled: usize,
    /// Number of viewers, the next ones, that read slowly.
    pub slow: usize,
    /// Rate at which a slow viewer reads, in bytes per second.
    pub slow_rate: u64,
    /// Maximum number of new connections per second, in all threads together; `None` = unlimited.
    pub connect_rate: Option<f64>,
    /// Size of a payload in bytes.
    pub size: usize,
    /// Number in all room names and payloads; distinguishes this benchmark from others.
    pub run: u32,
    /// Number of worker threads.
    pub threads: usize,
}

impl Plan {
    /// The name of a room. It contains `run`, so benchmarks with different numbers share no room.
    pub fn room_name(&self, room: u32) -> String {
        format!("bench-{:08x}-{room}", self.run)
    }

    /// How the viewer with this number reads.
    pub fn pace(&self, number: usize) -> Pace {
        match number {
            _ if number < self.stalled => Pace::Stalled,
            _ if number < self.stalled + self.slow => Pace::Slow,
            _ => Pace::Brisk,
        }
    }

    /// The number of deliveries to brisk viewers, if `published` messages go to the rooms in turn.
    pub fn expected(&self, published: u64) -> u64 {
        let (each, rest) = (published / self.rooms as u64, published % self.rooms as u64);
        let brisk = (0..self.viewers).filter(|&number| self.pace(number) == Pace::Brisk);
        brisk.map(|number| each + u64::from(((number % self.rooms) as u64) < rest)).sum()
    }
}
