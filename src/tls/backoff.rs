//! When the next attempt may be made: by what went wrong, and kept over restarts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What went wrong, as far as it decides how long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The CA is out of reach, or has troubles of its own: 30 s to 1 h.
    Network,
    /// The CA could not see that the host is ours: 15 min to 12 h. Let's Encrypt allows five such
    /// failures an hour.
    Validation,
    /// The CA named a time, or at least said that it is too much: that time, else 1 h to 12 h.
    RateLimited,
    /// The DNS provider does not take the credentials, or they do not reach the zone: 1 h to 12 h.
    Credentials,
    /// The store cannot be read or written: 30 s to 1 h. Without it, nothing is ordered.
    Store,
    /// An attempt of which nobody knows how it ended: the process was killed.
    Unknown,
    /// The server was stopped during an attempt, in good order: 30 s.
    Stopped,
}

/// All of them.
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
/// The longest of Let's Encrypt's limits counts a week. A date beyond it comes from a clock that
/// was wrong.
const LONGEST: Duration = Duration::from_secs(8 * 24 * 3600);
/// By up to this part a pause is longer than it has to be, so that not all instances come at once.
const JITTER: f64 = 0.25;

impl Class {
    /// The shortest pause, which doubles with every failure, and the longest.
    fn range(self) -> (Duration, Duration) {
        match self {
            Self::Network | Self::Store => (30 * SECOND, HOUR),
            Self::Validation | Self::Unknown => (15 * MINUTE, 12 * HOUR),
            Self::RateLimited | Self::Credentials => (HOUR, 12 * HOUR),
            Self::Stopped => (30 * SECOND, 30 * SECOND),
        }
    }

    /// The pause after so many failures in a row, without jitter.
    fn pause(self, failures: u32) -> Duration {
        let (min, max) = self.range();
        min.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(max)
    }

    /// The class as metrics and messages name it.
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

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// How long to wait.
    pub class: Class,
    /// Unless the other side said so itself.
    pub retry_after: Option<Duration>,
    /// What went wrong.
    pub text: String,
}

impl Failure {
    /// One that leaves the time to its class.
    pub fn new(class: Class, text: impl Into<String>) -> Self {
        Self { class, retry_after: None, text: text.into() }
    }
}

/// What is remembered about attempts. Times are in seconds since the Unix epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Backoff {
    /// What the last failure was; `None` after a success.
    pub class: Option<Class>,
    /// Failures of this class in a row.
    pub failures: u32,
    /// No attempt before.
    pub not_before: u64,
    /// What the last failure said.
    pub error: Option<String>,
}

impl Backoff {
    /// After one more failure. `retry_after` is what the CA asked for, from now on.
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

    /// How long no attempt may be made yet.
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
    fn pauses_grow_by_class_and_begin_anew_with_another() {
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
    fn a_time_that_the_ca_names_is_never_cut_short() {
        let now = 1_000_000;
        let after = Duration::from_secs(7200);
        for _ in 0..100 {
            let backoff = Backoff::default().failed(Class::RateLimited, "no", Some(after), now);
            assert!(backoff.pause(now) >= after);
        }
    }

    #[test]
    fn it_is_the_same_after_a_restart_and_a_wrong_clock_does_not_block_for_ever() {
        let backoff = Backoff::default().failed(Class::Unknown, "killed", None, 1_000_000);
        let text = serde_json::to_vec(&backoff).expect("JSON");
        assert_eq!(serde_json::from_slice::<Backoff>(&text).expect("JSON"), backoff);
        assert!(backoff.pause(0) <= LONGEST * 2);
        assert_eq!(backoff.pause(9_000_000), Duration::ZERO);
    }
}
