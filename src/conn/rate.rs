//! Token buckets: the packets and requests that a session, a connection or an address may send.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// An allowed rate.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Packets per second.
    pub per_second: usize,
    /// Packets that may come at once.
    pub burst: usize,
}

impl Rate {
    /// The rate of this many senders together.
    pub fn times(self, count: usize) -> Self {
        Self {
            per_second: self.per_second.saturating_mul(count),
            burst: self.burst.saturating_mul(count),
        }
    }
}

/// The tokens that are left of a rate.
#[derive(Clone, Copy, Debug)]
pub struct Bucket(f32);

impl Bucket {
    /// A full bucket.
    pub fn full(most: f32) -> Self {
        Self(most)
    }

    /// Adds `new` tokens, up to `most`, then takes one if there is one.
    pub fn take(&mut self, new: f32, most: f32) -> bool {
        self.0 = (self.0 + new).min(most);
        let is_there = self.0 >= 1.0;
        if is_there {
            self.0 -= 1.0;
        }
        is_there
    }
}

/// What a connection or an address may still send.
pub struct Allowance {
    rate: Rate,
    state: Mutex<(Bucket, Instant)>,
}

impl Allowance {
    /// All that the rate allows at once.
    pub fn new(rate: Rate) -> Self {
        let state = (Bucket::full(rate.burst as f32), Instant::now());
        Self { rate, state: Mutex::new(state) }
    }

    /// Counts a packet; `false` if it exceeds the rate.
    pub fn packet(&self) -> bool {
        let (mut state, now) = (self.state.lock(), Instant::now());
        let new = self.earned(state.1, now);
        state.1 = now;
        state.0.take(new, self.rate.burst as f32)
    }

    /// Counts something that costs as much as `cost` packets. Returns how long it has to wait until
    /// the rate allows it: at most as long as the tokens of a burst take.
    pub fn wait(&self, cost: f32) -> Duration {
        let (mut state, now) = (self.state.lock(), Instant::now());
        let burst = self.rate.burst as f32;
        let tokens = (state.0.0 + self.earned(state.1, now)).min(burst) - cost;
        // Requests whose clients have gone leave no longer debt to others of the address.
        let tokens = tokens.max(-burst);
        *state = (Bucket(tokens), now);
        let missing = (-tokens).max(0.0) / self.rate.per_second.max(1) as f32;
        Duration::from_secs_f32(missing)
    }

    /// Whether all tokens are there, as at the beginning.
    pub fn is_full(&self) -> bool {
        let state = self.state.lock();
        state.0.0 + self.earned(state.1, Instant::now()) >= self.rate.burst as f32
    }

    fn earned(&self, since: Instant, now: Instant) -> f32 {
        now.saturating_duration_since(since).as_secs_f32() * self.rate.per_second as f32
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 20 };

    #[tokio::test(start_paused = true)]
    async fn packets_above_the_rate_are_not_allowed() {
        let allowance = Allowance::new(RATE);
        assert_eq!((0..30).filter(|_| allowance.packet()).count(), 20);
        advance(Duration::from_secs(1)).await;
        assert_eq!((0..30).filter(|_| allowance.packet()).count(), 10);
        assert!(!allowance.is_full());
        advance(Duration::from_secs(2)).await;
        assert!(allowance.is_full());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_above_the_rate_wait_one_after_the_other() {
        let allowance = Allowance::new(RATE);
        let waits: Vec<_> = (0..4).map(|_| allowance.wait(10.0).as_secs()).collect();
        assert_eq!(waits, [0, 0, 1, 2]);
        advance(Duration::from_secs(2)).await;
        assert_eq!(allowance.wait(10.0).as_secs(), 1);
        let longest = (0..100).map(|_| allowance.wait(10.0).as_secs()).max();
        assert_eq!(longest, Some(2), "the debt is bounded");
    }
}
