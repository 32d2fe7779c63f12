//! One order by rustls-acme: an account, the challenge, a certificate, or what went wrong.
//!
//! Its state is made for one order and polled to that order's end, so that its own schedule and its
//! own retries after 1, 2 and 4 s never come about.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use anyhow::Context;
use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::StreamExt;
use rustls::ClientConfig;
use rustls_acme::{
    AccountCache, AcmeConfig, CertCache, EventError, EventOk, OrderError, UseChallenge,
    acme::{AcmeError, Auth},
};
use serde::{Deserialize, Serialize};
use tokio::{task::spawn_blocking, time::timeout};

use crate::{
    config::Challenge,
    tls::{backoff::Class, certificates::Certificates, store::Store},
};

/// For a whole order. The CA's checks take seconds; it may think about them for a minute.
const ORDER_TIMEOUT: Duration = Duration::from_secs(300);

/// Everything that an order needs.
pub struct Order {
    /// The CA's directory.
    pub directory: String,
    /// How the CA is reached.
    pub client: Arc<ClientConfig>,
    /// Whom the CA may write to.
    pub contact: Option<String>,
    /// For which hosts.
    pub hosts: Vec<String>,
    /// How the CA sees that they are ours.
    pub challenge: Challenge,
    /// Where the account's key is.
    pub store: Store,
    /// And as which kind of record.
    pub account: String,
    /// Who answers the challenge.
    pub certificates: Arc<Certificates>,
}

/// Why there is no certificate.
#[derive(Debug)]
pub struct Failure {
    /// How long to wait.
    pub class: Class,
    /// Unless the CA said so itself.
    pub retry_after: Option<Duration>,
    /// What went wrong.
    pub text: String,
}

impl Order {
    /// Places it and waits for its end: a key and a chain, PEM.
    pub async fn place(&self) -> Result<Vec<u8>, Failure> {
        let handover = Handover {
            store: self.store.clone(),
            account: self.account.clone(),
            ordered: Arc::default(),
        };
        let ordered = handover.ordered.clone();
        let challenge = match self.challenge {
            Challenge::TlsAlpn01 => UseChallenge::TlsAlpn01,
            Challenge::Http01 => UseChallenge::Http01,
        };
        let mut state = AcmeConfig::new_with_client_config(&self.hosts, self.client.clone())
            .directory(&self.directory)
            .contact(&self.contact)
            .challenge_type(challenge)
            .cache(handover)
            .state();
        let _answering = self.certificates.answer(state.resolver());
        let end = async {
            loop {
                match state.next().await {
                    Some(Ok(EventOk::CertCacheStore)) | None => return Ok(()),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(failure(&error)),
                }
            }
        };
        match timeout(ORDER_TIMEOUT, end).await {
            Ok(result) => result?,
            Err(_) => {
                return Err(network(format!("no end of it within {} s", ORDER_TIMEOUT.as_secs())));
            }
        }
        let pem = ordered.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        pem.ok_or_else(|| network("no certificate at the end of the order".to_owned()))
    }
}

/// What rustls-acme takes for its cache.
///
/// It is asked only when the loop has already read the store and found that a certificate is
/// needed; so “there is none” is not a guess here, but what makes it order.
struct Handover {
    store: Store,
    account: String,
    ordered: Arc<Mutex<Option<Vec<u8>>>>,
}

#[derive(Serialize, Deserialize)]
struct AccountKey {
    /// PKCS #8, base64.
    key: String,
}

#[async_trait]
impl CertCache for Handover {
    type EC = anyhow::Error;

    async fn load_cert(&self, _: &[String], _: &str) -> anyhow::Result<Option<Vec<u8>>> {
        Ok(None)
    }

    async fn store_cert(&self, _: &[String], _: &str, pem: &[u8]) -> anyhow::Result<()> {
        let mut ordered = self.ordered.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *ordered = Some(pem.to_owned());
        Ok(())
    }
}

#[async_trait]
impl AccountCache for Handover {
    type EA = anyhow::Error;

    async fn load_account(&self, _: &[String], _: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let parse = |content: &[u8]| {
            let account: AccountKey = serde_json::from_slice(content)?;
            BASE64_STANDARD.decode(account.key).context("the account's key")
        };
        let (store, kind) = (self.store.clone(), self.account.clone());
        Ok(spawn_blocking(move || store.read(&kind, parse)).await??.into_iter().next())
    }

    async fn store_account(&self, _: &[String], _: &str, key: &[u8]) -> anyhow::Result<()> {
        let content = serde_json::to_vec(&AccountKey { key: BASE64_STANDARD.encode(key) })?;
        let (store, kind) = (self.store.clone(), self.account.clone());
        spawn_blocking(move || store.write(&kind, &content)).await?
    }
}

fn network(text: String) -> Failure {
    Failure { class: Class::Network, retry_after: None, text }
}

fn failure(error: &EventError<anyhow::Error, anyhow::Error>) -> Failure {
    let class = |class, text| Failure { class, retry_after: None, text };
    match error {
        EventError::AccountCacheLoad(error) | EventError::AccountCacheStore(error) => {
            class(Class::Store, format!("{error:#}"))
        }
        EventError::Order(OrderError::Acme(AcmeError::HttpRequest(error))) => {
            let text = error.to_string();
            match answer(&text) {
                Some((status, body)) => refused(status, &body, SystemTime::now()),
                None => network(text),
            }
        }
        EventError::Order(OrderError::BadAuth(auth)) => class(Class::Validation, explain(auth)),
        EventError::Order(OrderError::BadOrder(order)) => {
            let detail = order.error.as_ref().and_then(|problem| problem.detail.as_deref());
            class(Class::Validation, detail.unwrap_or("the CA refused the order").to_owned())
        }
        EventError::Order(OrderError::TooManyAttemptsAuth(host)) => {
            class(Class::Validation, format!("the CA did not look at {host} within half a minute"))
        }
        EventError::Order(OrderError::Acme(AcmeError::NoTlsAlpn01Challenge)) => {
            class(Class::Validation, "the CA offers no tls-alpn-01: set ACME_CHALLENGE".to_owned())
        }
        EventError::Order(OrderError::Acme(AcmeError::NoHttp01Challenge)) => {
            class(Class::Validation, "the CA offers no http-01: set ACME_CHALLENGE".to_owned())
        }
        EventError::Order(OrderError::Acme(error)) => network(error.to_string()),
        error => network(error.to_string()),
    }
}

fn explain(auth: &Auth) -> String {
    let rustls_acme::acme::Identifier::Dns(host) = &auth.identifier;
    let problems =
        auth.challenges.iter().filter_map(|challenge| challenge.error.as_ref()?.detail.as_deref());
    let problems: Vec<_> = problems.collect();
    format!("the CA could not see that {host} is ours: {}", problems.join("; "))
}

/// rustls-acme does not export this error's type, only its text: `non 2xx http status: 429 "…"`.
fn answer(text: &str) -> Option<(u16, String)> {
    let (status, body) = text.strip_prefix("non 2xx http status: ")?.split_once(' ')?;
    // Rust's notation of a text, which but for rare letters is JSON's.
    Some((status.parse().ok()?, serde_json::from_str(body).unwrap_or_else(|_| body.to_owned())))
}

/// An ACME error document, or whatever came instead.
fn refused(status: u16, body: &str, now: SystemTime) -> Failure {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Problem {
        r#type: String,
        detail: String,
    }
    let problem: Problem = serde_json::from_str(body).unwrap_or_default();
    let kind = problem.r#type.rsplit(':').next().unwrap_or_default();
    let class = match (status, kind) {
        (429, _) | (_, "rateLimited") => Class::RateLimited,
        (500.., _) | (_, "badNonce") => Class::Network,
        _ => Class::Validation,
    };
    let retry_after = match class {
        Class::RateLimited => retry_after(&problem.detail, now),
        _ => None,
    };
    let text = match problem.detail.as_str() {
        "" => format!("the CA answered {status}"),
        detail => format!("the CA answered {status}: {detail}"),
    };
    Failure { class, retry_after, text }
}

/// rustls-acme does not hand on the header Retry-After. Let's Encrypt says the same in its text:
/// `… retry after 2026-03-01 12:00:00 UTC: see …`.
fn retry_after(detail: &str, now: SystemTime) -> Option<Duration> {
    let (_, rest) = detail.split_once("retry after ")?;
    let (time, _) = rest.split_once(" UTC")?;
    let at = humantime::parse_rfc3339_weak(time).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_ca_answers_decides_how_long_to_wait() {
        for (status, kind, class) in [
            (429, "rateLimited", Class::RateLimited),
            (400, "badNonce", Class::Network),
            (400, "rejectedIdentifier", Class::Validation),
            (403, "unauthorized", Class::Validation),
            (503, "serverInternal", Class::Network),
        ] {
            let body = format!(r#"{{"type":"urn:ietf:params:acme:error:{kind}","detail":"why"}}"#);
            let failure = refused(status, &body, SystemTime::UNIX_EPOCH);
            assert_eq!(failure.class, class, "{kind}");
            assert_eq!(failure.text, format!("the CA answered {status}: why"));
        }
        assert_eq!(refused(502, "<html>", SystemTime::UNIX_EPOCH).class, Class::Network);
    }

    #[test]
    fn the_answer_is_found_in_the_text_of_the_error() {
        let body = "{\"detail\": \"a\\nb\"}\n";
        let text = format!("non 2xx http status: 429 {body:?}");
        assert_eq!(answer(&text), Some((429, body.to_owned())));
        assert_eq!(answer("io error: gone"), None);
    }

    #[test]
    fn the_time_that_a_limit_names_is_kept() {
        let body = r#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s, retry after 1970-01-02 00:00:10 UTC: see https://letsencrypt.org/docs/rate-limits/"}"#;
        let failure = refused(429, body, SystemTime::UNIX_EPOCH);
        assert_eq!(failure.retry_after, Some(Duration::from_secs(86_410)));
        assert_eq!(refused(429, "{}", SystemTime::UNIX_EPOCH).retry_after, None);
    }
}
