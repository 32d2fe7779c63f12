//! The back-off between attempts to order a certificate. The pause depends on the kind of failure,
//! and the state is stored so that it survives restarts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The kind of a failure. It determines the pause before the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The CA or the DNS provider cannot be reached or has an internal error: 30 s to 1 h.
    Network,
    /// A host could not be validated, or the order was refused: 15 min to 12 h. Let's Encrypt
    /// allows five failed validations an hour.
    Validation,
    /// The CA or the DNS provider reported a rate limit: the time it named, else 1 h to 12 h.
    RateLimited,
    /// The DNS provider rejects the credentials, or they give no access to the zone: 1 h to 12 h.
    Credentials,
    /// The store cannot be read or written: 30 s to 1 h. Without it, nothing is ordered.
    Store,
    /// The result of the attempt is unknown because the process was killed: 15 min to 12 h.
    Unknown,
    /// The server was shut down during an attempt: 30 s.
    Stopped,
}

/// All classes, for metrics that list each one.
pub const CLASSES: [Class; 7] = [
    Class::Network,
    Class::Validation,
    Class::RateLimited,
    Class::Credentials,
    Class::Store,
    Class::Unknown,
    Class::Stopped,
];

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// The longest pause, without jitter. The longest of Let's Encrypt's rate limits covers a week, so
/// a later time can only come from a wrong clock.
const LONGEST: Duration = Duration::from_secs(8 * 24 * 3600);
/// Each pause is extended by a random part of itself, up to this fraction, so that instances do not
/// all retry at the same time.
const JITTER: f64 = 0.25;

impl Class {
    /// The pause after the first failure, which doubles with each further one, and the maximum.
    fn range(self) -> (Duration, Duration) {
        match self {
            Self::Network | Self::Store => (30 * SECOND, HOUR),
            Self::Validation | Self::Unknown => (15 * MINUTE, 12 * HOUR),
            Self::RateLimited | Self::Credentials => (HOUR, 12 * HOUR),
            Self::Stopped => (30 * SECOND, 30 * SECOND),
        }
    }

    /// The pause after this many consecutive failures, without jitter.
    fn pause(self, failures: u32) -> Duration {
        let (min, max) = self.range();
        min.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(max)
    }

    /// The name of the class in metrics and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Validation => "validation",
            Self::RateLimited => "rate_limited",
            Self::Credentials => "credentials",
            Self::Store => "store",
            Self::Unknown => "unknown",
            Self::Stopped => "stopped",
        }
    }
}

/// Why an attempt to get a certificate failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The kind of failure, which determines the pause.
    pub class: Class,
    /// The pause that the CA or the DNS provider asked for; it replaces the pause of the class.
    pub retry_after: Option<Duration>,
    /// The error message.
    pub text: String,
}

impl Failure {
    /// A failure whose pause is that of its class.
    pub fn new(class: Class, text: impl Into<String>) -> Self {
        Self { class, retry_after: None, text: text.into() }
    }
}

/// The state of the back-off, as it is stored. Times are in seconds since the Unix epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Backoff {
    /// The class of the last failure; `None` after a success.
    pub class: Option<Class>,
    /// The number of consecutive failures of this class.
    pub failures: u32,
    /// The time of the next attempt.
    pub not_before: u64,
    /// The message of the last failure.
    pub error: Option<String>,
}

impl Backoff {
    /// The state after one more failure. `retry_after` is the pause that the CA or the DNS provider
    /// asked for, counted from `now`.
    pub fn failed(
        &self,
        class: Class,
        error: &str,
        retry_after: Option<Duration>,
        now: u64,
    ) -> Self {
        let failures = if self.class == Some(class) { self.failures + 1 } else { 1 };
        let pause = retry_after.unwrap_or_else(|| class.pause(failures)).min(LONGEST);
        let pause = pause.mul_f64(1.0 + rand::random_range(0.0..=JITTER));
        let not_before = now + pause.as_secs().max(1);
        Self { class: Some(class), failures, not_before, error: Some(error.to_owned()) }
    }

    /// The time left until the next attempt; zero if one may start now. It is at most ten days, so
    /// that a `not_before` stored with a wrong clock does not block attempts for longer.
    pub fn pause(&self, now: u64) -> Duration {
        Duration::from_secs(self.not_before.saturating_sub(now)).min(LONGEST.mul_f64(1.0 + JITTER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(backoff: &Backoff, now: u64) -> f64 {
        backoff.pause(now).as_secs_f64() / 60.0
    }

    #[test]
    fn pauses_double_and_restart_when_the_class_changes() {
        let (mut backoff, now) = (Backoff::default(), 1_000_000);
        for expected in [15.0, 30.0, 60.0, 120.0, 240.0, 480.0, 720.0, 720.0] {
            backoff = backoff.failed(Class::Validation, "no", None, now);
            let pause = minutes(&backoff, now);
            assert!((expected..=expected * 1.25).contains(&pause), "{pause} for {expected}");
        }
        backoff = backoff.failed(Class::Network, "no", None, now);
        assert!((0.5..=0.625).contains(&minutes(&backoff, now)));
        for _ in 0..40 {
            backoff = backoff.failed(Class::Network, "no", None, now);
        }
        assert!((60.0..=75.0).contains(&minutes(&backoff, now)));
    }

    #[test]
    fn a_retry_after_time_is_never_shortened() {
        let now = 1_000_000;
        let after = Duration::from_secs(7200);
        for _ in 0..100 {
            let backoff = Backoff::default().failed(Class::RateLimited, "no", Some(after), now);
            assert!(backoff.pause(now) >= after);
        }
    }

    #[test]
    fn state_survives_a_restart_and_a_wrong_clock_does_not_block_for_ever() {
        let backoff = Backoff::default().failed(Class::Unknown, "killed", None, 1_000_000);
        let text = serde_json::to_vec(&backoff).expect("JSON");
        assert_eq!(serde_json::from_slice::<Backoff>(&text).expect("JSON"), backoff);
        assert!(backoff.pause(0) <= LONGEST * 2);
        assert_eq!(backoff.pause(9_000_000), Duration::ZERO);
    }
}
