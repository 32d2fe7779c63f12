//! The certificate in use: handshakes read it, whoever gets a newer one swaps it, operators ask.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use humantime::format_rfc3339_seconds;
use rustls::{
    RootCertStore,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_acme::is_tls_alpn_challenge;
use serde::Serialize;
use tracing::{info, warn};

use super::{answers::Answers, pair::Pair};
use crate::metrics::Metrics;

/// Shared by handshakes, the source of certificates and the admin listener. Open connections never
/// notice a swap.
pub struct Certificates {
    /// The host that is redirected to; unset, it is the certificate's first.
    host: Option<String>,
    /// Where certificates come from.
    source: &'static str,
    /// Whom browsers trust.
    roots: Arc<RootCertStore>,
    current: ArcSwapOption<InUse>,
    /// What the CA asks for while an order is under way.
    answers: ArcSwapOption<Answers>,
    next_attempt: Mutex<Option<SystemTime>>,
    error: Mutex<Option<String>>,
    metrics: Arc<Metrics>,
}

struct InUse {
    pair: Pair,
    trusted: bool,
}

/// A look at the certificate in use.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateReport {
    /// Where certificates come from: files or acme.
    pub source: &'static str,
    /// The names and addresses it is for; none while there is no certificate.
    pub names: Vec<String>,
    /// Who issued it.
    pub issuer: Option<String>,
    /// Its serial number, in hexadecimal digits.
    pub serial: Option<String>,
    /// Until when it holds.
    pub not_after: Option<String>,
    /// How many seconds that is from now, negative afterwards.
    pub seconds_left: Option<i64>,
    /// Whether browsers trust it.
    pub trusted: bool,
    /// When the next order may be placed.
    pub next_attempt: Option<String>,
    /// Why there is none, or no newer one; `null` if nothing went wrong.
    pub error: Option<String>,
}

impl Certificates {
    /// None yet: handshakes are refused.
    pub fn new(
        host: Option<String>,
        source: &'static str,
        roots: RootCertStore,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let (roots, (current, answers, next_attempt, error)) = (Arc::new(roots), <_>::default());
        Arc::new(Self { host, source, roots, current, answers, next_attempt, error, metrics })
    }

    /// Takes a certificate into use for all handshakes from now on.
    pub fn swap(&self, pair: Pair) {
        let (host, now) = (self.host.as_deref().or(pair.host()), SystemTime::now());
        if let Some(host) = host.filter(|host| !pair.covers(host)) {
            warn!("the certificate is for {}, and not for {host}", pair.names.join(", "));
        }
        let trusted = host.is_some_and(|host| pair.is_trusted(self.roots.clone(), host, now));
        let until = pair.not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.metrics.certificate_expires(self.source, until.as_secs());
        info!(serial = %pair.serial, trusted, "the certificate in use is {pair}");
        self.current.store(Some(Arc::new(InUse { pair, trusted })));
        self.change_error(None);
    }

    /// Something went wrong; said once as long as it stays the same.
    pub fn failed(&self, error: String) {
        if self.change_error(Some(error.clone())) {
            warn!("{error}");
        }
    }

    /// When a certificate will be ordered next.
    pub fn next_attempt(&self, at: SystemTime) {
        let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.metrics.certificate_next_attempt(self.source, seconds);
        *self.next_attempt.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(at);
    }

    /// Answers the CA's challenges until the guard is dropped.
    pub fn answer(self: &Arc<Self>, answers: Answers) -> Answering {
        self.answers.store(Some(Arc::new(answers)));
        Answering(self.clone())
    }

    /// What the CA is told at `/.well-known/acme-challenge/`.
    pub fn http_01(&self, token: &str) -> Option<String> {
        self.answers.load().as_ref()?.token(token)
    }

    /// What went wrong is over, and the certificate in use is the right one.
    pub fn recovered(&self) {
        self.change_error(None);
    }

    /// Whether there is one that holds now.
    pub fn usable(&self) -> bool {
        self.current.load().as_ref().is_some_and(|used| used.pair.holds(SystemTime::now()).is_ok())
    }

    /// Whether the one in use is for a host.
    pub fn covers(&self, host: &str) -> bool {
        self.current.load().as_ref().is_some_and(|used| used.pair.covers(host))
    }

    /// Whether browsers trust it.
    pub fn is_trusted(&self) -> bool {
        self.current.load().as_ref().is_some_and(|used| used.trusted) && self.usable()
    }

    /// The host that all plain requests are redirected to.
    pub fn host(&self) -> Option<String> {
        let current = self.current.load();
        self.host.clone().or_else(|| Some(current.as_ref()?.pair.host()?.to_owned()))
    }

    /// Whether all is well, and a look at the certificate now.
    pub fn report(&self) -> (bool, CertificateReport) {
        let (current, now) = (self.current.load(), SystemTime::now());
        let pair = current.as_ref().map(|used| &used.pair);
        let mut error = self.error.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        if let Some(Err(reason)) = pair.map(|pair| pair.holds(now)) {
            error = Some(error.map_or(reason.to_string(), |error| format!("{reason}; {error}")));
        }
        if pair.is_none() && error.is_none() {
            error = Some("there is no certificate yet".to_owned());
        }
        let next_attempt =
            *self.next_attempt.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let seconds = |time: SystemTime| match time.duration_since(now) {
            Ok(left) => left.as_secs() as i64,
            Err(over) => -(over.duration().as_secs() as i64),
        };
        let report = CertificateReport {
            source: self.source,
            names: pair.map(|pair| pair.names.clone()).unwrap_or_default(),
            issuer: pair.map(|pair| pair.issuer.clone()),
            serial: pair.map(|pair| pair.serial.clone()),
            not_after: pair.map(|pair| format_rfc3339_seconds(pair.not_after).to_string()),
            seconds_left: pair.map(|pair| seconds(pair.not_after)),
            trusted: self.is_trusted(),
            next_attempt: next_attempt.map(|at| format_rfc3339_seconds(at).to_string()),
            error,
        };
        (pair.is_some() && report.error.is_none(), report)
    }

    fn change_error(&self, new: Option<String>) -> bool {
        let mut error = self.error.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let news = *error != new;
        *error = new;
        news
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if is_tls_alpn_challenge(&hello) {
            return self.answers.load().as_ref()?.handshake(hello.server_name());
        }
        Some(self.current.load().as_ref()?.pair.key.clone())
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("host", &self.host).finish_non_exhaustive()
    }
}

/// Challenges are answered as long as this lives.
pub struct Answering(Arc<Certificates>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answers.store(None);
    }
}
