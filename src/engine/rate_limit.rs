//! The rate limit of a session's packets.

use tokio::time::Instant;

use crate::conn::rate::{Bucket, Rate};

/// A client that sends more than this many times the allowed rate is disconnected: even refusing
/// packets costs CPU time.
const EXCESSIVE: f32 = 10.0;

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RateVerdict {
    /// Answer it.
    Answer,
    /// Refuse it with an explanation.
    TooFast,
    /// Disconnect the client.
    Excessive,
}

/// The rate limit of one session: two token buckets. A packet takes one token from each.
pub struct RateLimit {
    /// Empty: packets are refused.
    answered: Bucket,
    /// Empty: the client is disconnected.
    hard: Bucket,
    at: Instant,
}

impl RateLimit {
    /// Two full buckets.
    pub fn new(rate: Rate, now: Instant) -> Self {
        let burst = rate.burst as f32;
        Self { answered: Bucket::full(burst), hard: Bucket::full(burst * EXCESSIVE), at: now }
    }

    /// Counts a packet that arrived at `now`.
    pub fn packet(&mut self, rate: Rate, now: Instant) -> RateVerdict {
        let (per_second, burst) = (rate.per_second as f32, rate.burst as f32);
        let new = now.saturating_duration_since(self.at).as_secs_f32() * per_second;
        self.at = now;
        let may_answer = self.answered.take(new, burst);
        let may_go_on = self.hard.take(new * EXCESSIVE, burst * EXCESSIVE);
        match (may_go_on, may_answer) {
            (false, _) => RateVerdict::Excessive,
            (true, false) => RateVerdict::TooFast,
            (true, true) => RateVerdict::Answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Duration;

    use super::*;

    fn verdicts(limit: &mut RateLimit, rate: Rate, packets: usize, now: Instant) -> [usize; 3] {
        let mut seen = [0; 3];
        for _ in 0..packets {
            seen[limit.packet(rate, now) as usize] += 1;
        }
        seen
    }

    #[test]
    fn a_burst_is_answered_then_refused_then_excessive() {
        let (now, rate) = (Instant::now(), Rate { per_second: 100, burst: 512 });
        let mut limit = RateLimit::new(rate, now);
        assert_eq!(verdicts(&mut limit, rate, 6000, now), [512, 4608, 880]);
    }

    #[test]
    fn tokens_are_added_at_the_rate_up_to_the_burst() {
        let (start, rate) = (Instant::now(), Rate { per_second: 100, burst: 512 });
        let mut limit = RateLimit::new(rate, start);
        verdicts(&mut limit, rate, 512, start);
        let later = start + Duration::from_millis(500);
        assert_eq!(verdicts(&mut limit, rate, 60, later), [50, 10, 0]);
        let much_later = start + Duration::from_secs(3600);
        assert_eq!(verdicts(&mut limit, rate, 600, much_later), [512, 88, 0]);
    }

    #[test]
    fn a_client_below_ten_times_the_rate_is_never_excessive() {
        let (start, rate) = (Instant::now(), Rate { per_second: 10, burst: 20 });
        let mut limit = RateLimit::new(rate, start);
        for second in 0..1000 {
            let now = start + Duration::from_secs(second);
            assert_eq!(verdicts(&mut limit, rate, 50, now)[2], 0, "after {second} s");
        }
    }
}
