//! When a certificate is renewed: in the window that the CA suggests (RFC 9773), else when a third
//! of its lifetime is left. The time is stored, so that a restart does not ask the CA again.

use std::time::{Duration, SystemTime};

use instant_acme::{CertificateIdentifier, Error};
use serde::{Deserialize, Serialize};

use super::{
    account::{Accounts, Opened},
    seconds,
    wire::failure,
};
use crate::tls::{backoff::Failure, pair::Pair};

/// A certificate is renewed when one part in `LEFT` of its lifetime is left, here a third.
const LEFT: u32 = 3;
/// The renewal is moved earlier by a random part of the lifetime, up to this fraction, so that
/// instances do not all renew at the same time.
const EARLIER: f64 = 1.0 / 30.0;
/// The shortest and the longest pause between requests for the CA's suggestion. The pause that the
/// CA asks for is clamped to this range.
const ASK_RANGE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 3600));
/// The pause after a failed request, if the CA did not name one.
const ASK_AGAIN: Duration = Duration::from_secs(3600);

/// When one certificate is renewed. Times are in seconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Renewal {
    /// The certificate's identifier by RFC 9773; `None` if it cannot be derived.
    certificate: Option<String>,
    /// The start and the end of the window that the CA suggested.
    window: Option<(u64, u64)>,
    /// The time of the renewal.
    pub at: u64,
    /// When to ask the CA for its suggestion; `u64::MAX` (never) without an identifier.
    pub ask_at: u64,
    not_after: u64,
}

/// The renewal window that the CA suggests, and the pause before it may be asked again.
pub struct Suggestion {
    window: (u64, u64),
    again: Duration,
}

impl Renewal {
    /// The renewal by the certificate's lifetime, before the CA was asked.
    pub fn new(pair: &Pair) -> Self {
        let certificate = CertificateIdentifier::try_from(&pair.key.cert[0]).ok();
        let life = pair.not_after.duration_since(pair.not_before).unwrap_or_default();
        let earlier = life / LEFT + life.mul_f64(rand::random_range(0.0..=EARLIER));
        let at = pair.not_after.checked_sub(earlier).unwrap_or(SystemTime::UNIX_EPOCH);
        Self {
            ask_at: if certificate.is_some() { 0 } else { u64::MAX },
            certificate: certificate.map(|name| name.to_string()),
            window: None,
            at: seconds(at),
            not_after: seconds(pair.not_after),
        }
    }

    /// Whether both belong to the same certificate.
    pub fn is_of_same(&self, other: &Self) -> bool {
        self.certificate == other.certificate && self.not_after == other.not_after
    }

    /// The certificate's identifier, for requests about it and for the order that replaces it.
    pub fn certificate(&self) -> Option<CertificateIdentifier<'_>> {
        let (authority, serial) = self.certificate.as_deref()?.split_once('.')?;
        let (authority_key_identifier, serial) = (authority.into(), serial.into());
        Some(CertificateIdentifier { authority_key_identifier, serial })
    }

    /// Asks the CA for its suggested window. `None` if the CA does not support this, or if there is
    /// no identifier or no account.
    pub async fn ask(&self, accounts: &Accounts) -> Result<Option<Suggestion>, Failure> {
        let Some(certificate) = self.certificate() else { return Ok(None) };
        let Some(Opened { account, .. }) = accounts.stored().await? else { return Ok(None) };
        match account.renewal_info(&certificate).await {
            Ok((info, again)) => {
                let second = |time: i64| u64::try_from(time).unwrap_or_default();
                let window = &info.suggested_window;
                let (start, end) = (window.start.unix_timestamp(), window.end.unix_timestamp());
                Ok(Some(Suggestion { window: (second(start), second(end)), again }))
            }
            Err(Error::Unsupported(_)) => Ok(None),
            Err(error) => Err(failure(error)),
        }
    }

    /// The renewal after the CA's answer, or after a failed request, at the time `now`.
    pub fn answered(mut self, answer: Result<Option<Suggestion>, Failure>, now: u64) -> Self {
        let (min, max) = ASK_RANGE;
        let again = match answer {
            Ok(Some(Suggestion { window: (start, end), again })) => {
                // Keep the chosen time while the window stays the same: the earliest of many random
                // choices would be close to its start. Ignore a window that ends before it starts,
                // or after the certificate expires.
                if start <= end && end <= self.not_after && self.window != Some((start, end)) {
                    self.window = Some((start, end));
                    self.at = rand::random_range(start..=end);
                }
                again.clamp(min, max)
            }
            Ok(None) => max,
            Err(Failure { retry_after, .. }) => retry_after.unwrap_or(ASK_AGAIN).clamp(min, max),
        };
        self.ask_at = now + again.as_secs();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suggested(window: (u64, u64), again: u64) -> Result<Option<Suggestion>, Failure> {
        Ok(Some(Suggestion { window, again: Duration::from_secs(again) }))
    }

    fn by_age() -> Renewal {
        let certificate = Some("aki.serial".to_owned());
        Renewal { certificate, window: None, at: 6_000, ask_at: 0, not_after: 9_000 }
    }

    #[test]
    fn the_chosen_time_is_kept_while_the_window_stays_the_same() {
        let renewal = by_age().answered(suggested((4_000, 5_000), 600), 100);
        assert!((4_000..=5_000).contains(&renewal.at));
        assert_eq!(renewal.ask_at, 700);
        for _ in 0..20 {
            let again = renewal.clone().answered(suggested((4_000, 5_000), 600), 700);
            assert_eq!(again.at, renewal.at);
        }
        let sooner = renewal.answered(suggested((10, 20), 600), 700);
        assert!((10..=20).contains(&sooner.at));
    }

    #[test]
    fn without_a_usable_window_the_lifetime_decides() {
        for window in [(5_000, 4_000), (8_000, 9_001)] {
            assert_eq!(by_age().answered(suggested(window, 600), 100).at, 6_000);
        }
        let renewal = by_age().answered(Ok(None), 100);
        assert_eq!((renewal.at, renewal.ask_at), (6_000, 100 + 86_400));
    }

    #[test]
    fn the_pause_between_requests_to_the_ca_is_limited() {
        assert_eq!(by_age().answered(suggested((4_000, 5_000), 0), 100).ask_at, 160);
        assert_eq!(by_age().answered(suggested((4_000, 5_000), u64::MAX), 0).ask_at, 86_400);
        let failure = Failure::new(crate::tls::backoff::Class::Network, "no");
        assert_eq!(by_age().answered(Err(failure), 100).ask_at, 3_700);
    }
}
