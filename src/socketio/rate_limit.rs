//! How many events a socket may send in a time.

use std::time::Instant;

/// Who sends so many times as much as is answered is ended: answering no costs time as well.
const EXCESSIVE: f64 = 10.0;

/// What is to become of an event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// It is answered.
    Answer,
    /// It is refused with words.
    TooFast,
    /// Its sender is ended.
    Excessive,
}

/// What one socket may still send.
pub struct RateLimit {
    /// For being answered.
    answered: Bucket,
    /// For being refused, rather than ended.
    hard: Bucket,
}

/// Tokens, one an event, that come back at a rate.
struct Bucket {
    rate: f64,
    most: f64,
    tokens: f64,
    at: Instant,
}

impl RateLimit {
    /// So many events a second, after so many at once.
    pub fn new(rate: usize, burst: usize, now: Instant) -> Self {
        let bucket = |times: f64| {
            let most = burst as f64 * times;
            Bucket { rate: rate as f64 * times, most, tokens: most, at: now }
        };
        Self { answered: bucket(1.0), hard: bucket(EXCESSIVE) }
    }

    /// An event has come.
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
    fn a_burst_is_answered_then_refused_then_ended() {
        let now = Instant::now();
        let mut pace = RateLimit::new(100, 512, now);
        assert_eq!(verdicts(&mut pace, 6000, now), [512, 4608, 880]);
    }

    #[test]
    fn tokens_come_back_at_the_rate_and_no_more_than_there_were() {
        let start = Instant::now();
        let mut pace = RateLimit::new(100, 512, start);
        verdicts(&mut pace, 512, start);
        let later = start + Duration::from_millis(500);
        assert_eq!(verdicts(&mut pace, 60, later), [50, 10, 0]);
        let much_later = start + Duration::from_secs(3600);
        assert_eq!(verdicts(&mut pace, 600, much_later), [512, 88, 0]);
    }

    #[test]
    fn who_is_somewhat_too_fast_is_refused_for_ever_and_never_ended() {
        let start = Instant::now();
        let mut pace = RateLimit::new(10, 20, start);
        for second in 0..1000 {
            let now = start + Duration::from_secs(second);
            assert_eq!(verdicts(&mut pace, 50, now)[2], 0, "after {second} s");
        }
    }
}
