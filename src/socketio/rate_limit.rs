//! The rate limit for a socket's events.

use std::time::Instant;

/// A client that sends more than this many times the allowed rate is disconnected: even refusing
/// events costs CPU time.
const EXCESSIVE: f64 = 10.0;

/// What to do with an event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// Answer it.
    Answer,
    /// Refuse it with an explanation.
    TooFast,
    /// Disconnect the client.
    Excessive,
}

/// The rate limit of one socket: two token buckets.
pub struct RateLimit {
    /// Empty: events are refused.
    answered: Bucket,
    /// Empty: the client is disconnected.
    hard: Bucket,
}

/// A token bucket. An event takes one token; `rate` tokens per second are added, up to `most`.
struct Bucket {
    rate: f64,
    most: f64,
    tokens: f64,
    at: Instant,
}

impl RateLimit {
    /// Allows `rate` events per second, and a burst of `burst` events at the start.
    pub fn new(rate: usize, burst: usize, now: Instant) -> Self {
        let bucket = |times: f64| {
            let most = burst as f64 * times;
            Bucket { rate: rate as f64 * times, most, tokens: most, at: now }
        };
        Self { answered: bucket(1.0), hard: bucket(EXCESSIVE) }
    }

    /// Counts an event that arrived at `now`.
    pub fn event(&mut self, now: Instant) -> Verdict {
        match (self.hard.take(now), self.answered.take(now)) {
            (false, _) => Verdict::Excessive,
            (true, false) => Verdict::TooFast,
            (true, true) => Verdict::Answer,
        }
    }
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.rate).min(self.most);
        self.at = now;
        let taken = self.tokens >= 1.0;
        if taken {
            self.tokens -= 1.0;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn verdicts(pace: &mut RateLimit, events: usize, now: Instant) -> [usize; 3] {
        let mut seen = [0; 3];
        for _ in 0..events {
            seen[pace.event(now) as usize] += 1;
        }
        seen
    }

    #[test]
    fn a_burst_is_answered_then_refused_then_excessive() {
        let now = Instant::now();
        let mut pace = RateLimit::new(100, 512, now);
        assert_eq!(verdicts(&mut pace, 6000, now), [512, 4608, 880]);
    }

    #[test]
    fn tokens_are_added_at_the_rate_up_to_the_burst() {
        let start = Instant::now();
        let mut pace = RateLimit::new(100, 512, start);
        verdicts(&mut pace, 512, start);
        let later = start + Duration::from_millis(500);
        assert_eq!(verdicts(&mut pace, 60, later), [50, 10, 0]);
        let much_later = start + Duration::from_secs(3600);
        assert_eq!(verdicts(&mut pace, 600, much_later), [512, 88, 0]);
    }

    #[test]
    fn a_client_below_ten_times_the_rate_is_never_excessive() {
        let start = Instant::now();
        let mut pace = RateLimit::new(10, 20, start);
        for second in 0..1000 {
            let now = start + Duration::from_secs(second);
            assert_eq!(verdicts(&mut pace, 50, now)[2], 0, "after {second} s");
        }
    }
}
