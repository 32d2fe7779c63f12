//! When a certificate is renewed: in the window that the CA suggests (RFC 9773), else when a third
//! of its life is left. Kept, so that a restart asks nobody.

use std::time::{Duration, SystemTime};

use instant_acme::{CertificateIdentifier, Error};
use serde::{Deserialize, Serialize};

use super::{
    account::{Accounts, Opened},
    seconds,
    wire::failure,
};
use crate::tls::{backoff::Failure, pair::Pair};

/// A certificate is renewed when this part of its life is left.
const LEFT: u32 = 3;
/// And up to this part of its life earlier, so that not all instances come at once.
const EARLIER: f64 = 1.0 / 30.0;
/// The CA says when it wants to be asked again; what it says is kept within these.
const ASK_RANGE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 3600));
/// When it could not be asked.
const ASK_AGAIN: Duration = Duration::from_secs(3600);

/// When one certificate is renewed. Times are in seconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Renewal {
    /// Of which certificate, as RFC 9773 names it; `None` if it cannot be named.
    certificate: Option<String>,
    /// From when to when the CA suggests to renew it.
    window: Option<(u64, u64)>,
    /// The moment that was chosen.
    pub at: u64,
    /// When the CA is asked about it; never, if it cannot be named.
    pub ask_at: u64,
    not_after: u64,
}

/// What the CA suggests, and when it wants to be asked again.
pub struct Suggestion {
    window: (u64, u64),
    again: Duration,
}

impl Renewal {
    /// By the certificate's age, as long as the CA was not asked.
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

    /// Whether both are about the same certificate.
    pub fn is_of_same(&self, other: &Self) -> bool {
        self.certificate == other.certificate && self.not_after == other.not_after
    }

    /// The certificate that an order replaces.
    pub fn certificate(&self) -> Option<CertificateIdentifier<'_>> {
        let (authority, serial) = self.certificate.as_deref()?.split_once('.')?;
        let (authority_key_identifier, serial) = (authority.into(), serial.into());
        Some(CertificateIdentifier { authority_key_identifier, serial })
    }

    /// Asks the CA; `None` if it suggests nothing.
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

    /// With the CA's answer.
    pub fn answered(mut self, answer: Result<Option<Suggestion>, Failure>, now: u64) -> Self {
        let (min, max) = ASK_RANGE;
        let again = match answer {
            Ok(Some(Suggestion { window: (start, end), again })) => {
                // The same window keeps its moment: chosen anew each time, it would come early. One
                // that makes no sense, or that the certificate does not live to see, is none.
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
    fn a_moment_in_the_window_is_kept_as_long_as_the_window_is() {
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
    fn without_a_sensible_window_the_age_decides() {
        for window in [(5_000, 4_000), (8_000, 9_001)] {
            assert_eq!(by_age().answered(suggested(window, 600), 100).at, 6_000);
        }
        let renewal = by_age().answered(Ok(None), 100);
        assert_eq!((renewal.at, renewal.ask_at), (6_000, 100 + 86_400));
    }

    #[test]
    fn the_ca_is_not_asked_all_the_time() {
        assert_eq!(by_age().answered(suggested((4_000, 5_000), 0), 100).ask_at, 160);
        assert_eq!(by_age().answered(suggested((4_000, 5_000), u64::MAX), 0).ask_at, 86_400);
        let failure = Failure::new(crate::tls::backoff::Class::Network, "no");
        assert_eq!(by_age().answered(Err(failure), 100).ask_at, 3_700);
    }
}
