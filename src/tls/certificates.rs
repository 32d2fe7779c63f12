//! The certificate in use: read by handshakes, replaced by its source, shown on the admin listener.

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use humantime::format_rfc3339_seconds;
use parking_lot::Mutex;
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

/// The current certificate and its state.
///
/// One instance lives as long as the server and is shared by the handshakes, the source of
/// certificates (ACME or files) and the admin listener. It starts without a certificate; the source
/// then sets one and replaces it with [`swap`](Self::swap). Handshakes read it without a lock, and
/// open connections keep the certificate that they were established with.
pub struct Certificates {
    /// The host that plain HTTP is redirected to; if unset, the first host of the certificate.
    host: Option<String>,
    /// Where certificates come from: `files` or `acme`.
    source: &'static str,
    /// The root certificates that decide whether a certificate is reported as trusted.
    roots: Arc<RootCertStore>,
    current: ArcSwapOption<InUse>,
    /// Responses to the CA's challenges, while an order is in progress.
    answers: ArcSwapOption<Answers>,
    next_attempt: Mutex<Option<SystemTime>>,
    error: Mutex<Option<String>>,
    metrics: Arc<Metrics>,
}

struct InUse {
    pair: Pair,
    trusted: bool,
}

/// The state of the certificate, as `/status` of the admin listener shows it.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateReport {
    /// Where certificates come from: `files` or `acme`.
    pub source: &'static str,
    /// The host names and IP addresses of the certificate; empty without a certificate.
    pub names: Vec<String>,
    /// The distinguished name of the issuer.
    pub issuer: Option<String>,
    /// The serial number in hexadecimal digits.
    pub serial: Option<String>,
    /// The time of expiry, in RFC 3339.
    pub not_after: Option<String>,
    /// Seconds until it expires; negative after that.
    pub seconds_left: Option<i64>,
    /// Whether browsers trust it: it is valid now, covers the host, and leads to a known root.
    pub trusted: bool,
    /// When the next order is placed, in RFC 3339; `null` if none is planned, as for files.
    pub next_attempt: Option<String>,
    /// Why there is no certificate or no newer one; `null` if nothing is wrong.
    pub error: Option<String>,
}

impl Certificates {
    /// Starts without a certificate: handshakes fail until [`swap`](Self::swap) sets one.
    pub fn new(
        host: Option<String>,
        source: &'static str,
        roots: RootCertStore,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let (roots, (current, answers, next_attempt, error)) = (Arc::new(roots), <_>::default());
        Arc::new(Self { host, source, roots, current, answers, next_attempt, error, metrics })
    }

    /// Uses a certificate for all handshakes from now on, and clears the error in the report.
    pub fn swap(&self, pair: Pair) {
        let (host, now) = (self.host.as_deref().or(pair.host()), SystemTime::now());
        if let Some(host) = host.filter(|host| !pair.covers(host)) {
            warn!("the certificate is for {} and does not cover {host}", pair.names.join(", "));
        }
        let trusted = host.is_some_and(|host| pair.is_trusted(self.roots.clone(), host, now));
        let until = pair.not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.metrics.certificate_expires(self.source, until.as_secs());
        info!(serial = %pair.serial, trusted, "the certificate in use is {pair}");
        self.current.store(Some(Arc::new(InUse { pair, trusted })));
        self.change_error(None);
    }

    /// Sets the error in the report. It is logged only if it differs from the previous one.
    pub fn failed(&self, error: String) {
        if self.change_error(Some(error.clone())) {
            warn!("{error}");
        }
    }

    /// Sets the time of the next order in the report and the metrics.
    pub fn next_attempt(&self, at: SystemTime) {
        let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.metrics.certificate_next_attempt(self.source, seconds);
        *self.next_attempt.lock() = Some(at);
    }

    /// Responds to the CA's challenges with `answers` until the guard is dropped.
    pub fn answer(self: &Arc<Self>, answers: Answers) -> Answering {
        self.answers.store(Some(Arc::new(answers)));
        Answering(self.clone())
    }

    /// The response to a request for `/.well-known/acme-challenge/{token}`; `None` if the token
    /// does not belong to a pending challenge.
    pub fn http_01(&self, token: &str) -> Option<String> {
        self.answers.load().as_ref()?.token(token)
    }

    /// Clears the error in the report: the certificate in use is the right one again.
    pub fn recovered(&self) {
        self.change_error(None);
    }

    /// Whether there is a certificate that is valid now.
    pub fn usable(&self) -> bool {
        self.current.load().as_ref().is_some_and(|used| used.pair.holds(SystemTime::now()).is_ok())
    }

    /// Whether there is a certificate and it covers `host`.
    pub fn covers(&self, host: &str) -> bool {
        self.current.load().as_ref().is_some_and(|used| used.pair.covers(host))
    }

    /// Whether there is a certificate that is valid now and that browsers trust.
    pub fn is_trusted(&self) -> bool {
        self.current.load().as_ref().is_some_and(|used| used.trusted) && self.usable()
    }

    /// The host that plain HTTP requests are redirected to; `None` if it is not set and there is no
    /// certificate that names a host.
    pub fn host(&self) -> Option<String> {
        let current = self.current.load();
        self.host.clone().or_else(|| Some(current.as_ref()?.pair.host()?.to_owned()))
    }

    /// The state of the certificate now. The `bool` is true if there is a certificate and no error.
    pub fn report(&self) -> (bool, CertificateReport) {
        let (current, now) = (self.current.load(), SystemTime::now());
        let pair = current.as_ref().map(|used| &used.pair);
        let mut error = self.error.lock().clone();
        if let Some(Err(reason)) = pair.map(|pair| pair.holds(now)) {
            error = Some(error.map_or(reason.to_string(), |error| format!("{reason}; {error}")));
        }
        if pair.is_none() && error.is_none() {
            error = Some("there is no certificate yet".to_owned());
        }
        let next_attempt = *self.next_attempt.lock();
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
        let mut error = self.error.lock();
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

/// A guard: while it exists, the server responds to the CA's challenges.
pub struct Answering(Arc<Certificates>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answers.store(None);
    }
}
