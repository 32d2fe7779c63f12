//! Certificates by ACME: a loop that serves the stored certificate and orders new ones.
//!
//! An order is placed only after the store has been read and shows that an order is due, and after
//! the attempt has been recorded in the store. A process that restarts in a loop therefore does not
//! place orders in a loop, whatever ends it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};
use humantime::format_rfc3339_seconds;
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    backoff::{Backoff, CLASSES, Class, Failure},
    certificates::Certificates,
    pair::Pair,
    store::Store,
};
use crate::{config, file_calls::StoreCalls, metrics::Metrics};

mod account;
pub(super) mod authority;
mod order;
mod renewal;
mod wire;

use account::Accounts;
use order::Order;
use renewal::Renewal;

/// The pause before the next try after the store could not be read or written. A certificate that
/// could not be stored is then written again.
const STORE_RETRY: Duration = Duration::from_secs(30);
/// The longest sleep of the loop. It is limited because the machine may be suspended meanwhile or
/// its clock may be set.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// The most characters of a host name in a record's name: file names are limited to 255 bytes.
const MAX_NAME: usize = 100;

/// The task that serves and renews the certificate for all hosts of this server.
///
/// [`run`](Self::run) is one loop and places one order at a time. State that must survive a restart
/// (certificates, back-off, renewal time, account) is in the store; the fields hold what was read
/// from it or could not be written to it.
pub struct Acme {
    order: Order,
    hosts: Vec<String>,
    store: StoreCalls,
    certificates: Arc<Certificates>,
    metrics: Arc<Metrics>,
    /// The kinds of records in the store, for the certificate, the back-off and the renewal time.
    certificate: String,
    attempts: String,
    renewals: String,
    /// When to renew the certificate in use; `None` without a certificate.
    renewal: Option<Renewal>,
    /// The certificate in use, key and chain in PEM, if it could not be stored yet.
    unstored: Option<Vec<u8>>,
    /// Notified on SIGHUP: the operator has fixed the cause of a failure.
    again: Arc<Notify>,
    /// Whether the current step was started by `again`.
    hurry: bool,
    /// The back-off as this process knows it, in case it could not be stored.
    backoff: Backoff,
}

impl Acme {
    /// Selects the CA and reads the root certificates, without any network request.
    ///
    /// # Errors
    ///
    /// `ACME_CA_ROOT` or `SSL_CERT_FILE` cannot be read or parsed.
    pub async fn new(
        hosts: Vec<String>,
        settings: config::Acme,
        certificates: Arc<Certificates>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let directory = authority::directory(&settings.ca, &settings.store).await;
        let client = authority::client(settings.ca_root.as_deref()).await?;
        let store = StoreCalls::new(Store::new(settings.store));
        let host: String =
            hosts.first().map(|host| host.chars().take(MAX_NAME).collect()).unwrap_or_default();
        let name = format!("{host}-{:016x}", hash(&[&directory, &hosts.join(",")]));
        let email = settings.email.unwrap_or_default();
        let accounts = Accounts {
            kind: format!("account-{:016x}", hash(&[&directory, &email])),
            contact: (!email.is_empty()).then(|| format!("mailto:{email}")),
            store: store.clone(),
            directory,
            client,
        };
        let order = Order {
            accounts,
            hosts: hosts.clone(),
            challenge: settings.challenge,
            certificates: certificates.clone(),
        };
        for result in CLASSES.map(Class::as_str).into_iter().chain(["done"]) {
            metrics.certificate_attempts(result);
        }
        Ok(Self {
            order,
            hosts,
            store,
            certificates,
            metrics,
            certificate: format!("cert-{name}"),
            attempts: format!("attempts-{name}"),
            renewals: format!("renewal-{name}"),
            renewal: None,
            unstored: None,
            again: Arc::default(),
            hurry: false,
            backoff: Backoff::default(),
        })
    }

    /// The handle for SIGHUP: after `notify_one`, a due order is attempted at once despite its
    /// back-off, unless the last failure was a rate limit.
    pub fn again(&self) -> Arc<Notify> {
        self.again.clone()
    }

    /// Serves the stored certificate and renews it, until `stop` is cancelled. An order in progress
    /// is then abandoned, and its TXT records are removed.
    pub async fn run(mut self, stop: CancellationToken) {
        info!(directory = self.order.accounts.directory, store = %self.store.folder().display(), "certificates are ordered by ACME");
        while !stop.is_cancelled() {
            let pause = match self.step(&stop).await {
                Ok(pause) => pause,
                Err(error) => {
                    // The store failed. Nothing is ordered until it can be read and written again.
                    self.certificates.failed(format!("CERT_DIR: {error:#}"));
                    STORE_RETRY
                }
            };
            self.hurry = tokio::select! {
                () = sleep(pause.min(LOOK_EVERY)) => false,
                () = self.again.notified() => true,
                () = stop.cancelled() => false,
            };
        }
    }

    /// Performs what is due and returns how long to wait before the next step. Errors are those of
    /// the store.
    async fn step(&mut self, stop: &CancellationToken) -> anyhow::Result<Duration> {
        if let Some(pem) = self.unstored.take() {
            self.keep(pem).await?;
        }
        if self.renewal.is_none() {
            self.serve_stored().await?;
        }
        let now = SystemTime::now();
        if let Some(renewal) = self.renewed_later(seconds(now), stop).await {
            self.certificates.next_attempt(UNIX_EPOCH + Duration::from_secs(renewal.at));
            self.certificates.recovered();
            let next = renewal.at.min(renewal.ask_at).saturating_sub(seconds(now));
            return Ok(Duration::from_secs(next));
        }
        let before = self.remembered().await?;
        let pause = before.pause(seconds(now));
        let hurry = self.hurry && before.class != Some(Class::RateLimited);
        if !pause.is_zero() && !hurry {
            self.report(&before, now + pause);
            return Ok(pause);
        }
        self.attempt(&before, stop).await
    }

    /// The renewal of the certificate in use, if it is not due yet; `None` if a certificate is to
    /// be ordered now. Asks the CA for its suggested window when that is due; a failure to get an
    /// answer is only logged.
    async fn renewed_later(&mut self, now: u64, stop: &CancellationToken) -> Option<Renewal> {
        let mut renewal = self.renewal.clone().filter(|renewal| renewal.at > now)?;
        if renewal.ask_at <= now {
            let asked = renewal.ask(&self.order.accounts);
            let Some(answer) = stop.run_until_cancelled(asked).await else { return Some(renewal) };
            if let Err(Failure { text, .. }) = &answer {
                info!("the CA gave no renewal window: {text}");
            }
            renewal = renewal.answered(answer, now);
            if let Ok(content) = serde_json::to_vec(&renewal) {
                // If the write fails, the CA is only asked again after a restart.
                let _ = self.write(self.renewals.clone(), content).await;
            }
            self.renewal = Some(renewal.clone());
        }
        (renewal.at > now).then_some(renewal)
    }

    /// Places one order. Before that, a failure with an unknown result is recorded; it stays in the
    /// store if the process ends during the order.
    async fn attempt(
        &mut self,
        before: &Backoff,
        stop: &CancellationToken,
    ) -> anyhow::Result<Duration> {
        let unknown = "the process ended while a certificate was being ordered";
        self.remember(before.failed(Class::Unknown, unknown, None, seconds(SystemTime::now())))
            .await?;
        let replaced = self.renewal.as_ref().and_then(Renewal::certificate);
        let ordered = self.order.place(replaced, stop).await;
        let ordered = ordered.and_then(|pem| match self.parse()(&pem) {
            Ok(pair) => Ok((pem, pair)),
            Err(error) => {
                let text = format!("the CA's certificate cannot be used: {error:#}");
                Err(Failure::new(Class::Validation, text))
            }
        });
        match ordered {
            Ok((pem, pair)) => {
                self.metrics.certificate_attempts("done").inc();
                self.take(pair, None);
                // Clear the failure recorded before the order: it would delay the next order.
                let remembered = self.remember(Backoff::default()).await;
                self.keep(pem).await?;
                remembered?;
                Ok(Duration::ZERO)
            }
            Err(Failure { class, retry_after, text }) => {
                self.metrics.certificate_attempts(class.as_str()).inc();
                let now = SystemTime::now();
                let after = before.failed(class, &text, retry_after, seconds(now));
                let pause = after.pause(seconds(now));
                self.report(&after, now + pause);
                self.remember(after).await?;
                Ok(pause)
            }
        }
    }

    /// Shows the last failure and the time of the next attempt, `next`, to operators.
    fn report(&self, backoff: &Backoff, next: SystemTime) {
        self.certificates.next_attempt(next);
        let class = backoff.class.map_or("unknown", Class::as_str);
        let text = backoff.error.as_deref().unwrap_or_default();
        self.certificates.failed(format!(
            "no certificate from {} ({class}): {text}; the next attempt is at {}",
            self.order.accounts.directory,
            format_rfc3339_seconds(next)
        ));
    }

    /// Serves the newest stored certificate that is valid now, or else the newest one: an expired
    /// certificate is better than none.
    async fn serve_stored(&mut self) -> anyhow::Result<()> {
        let (kind, parse) = (self.certificate.clone(), self.parse());
        let renewals = self.renewals.clone();
        let read = move |store: &Store| {
            let renewal = |content: &[u8]| Ok(serde_json::from_slice::<Renewal>(content)?);
            // A damaged record counts as missing: the CA is asked again.
            let renewal = store.read(&renewals, renewal).unwrap_or_default().into_iter().next();
            Ok((store.read(&kind, parse)?, renewal))
        };
        let (mut stored, renewal) = self.store.call(read).await?;
        let now = SystemTime::now();
        let newest = stored.iter().position(|pair| pair.holds(now).is_ok()).unwrap_or_default();
        if newest < stored.len() {
            self.take(stored.swap_remove(newest), renewal);
        }
        Ok(())
    }

    /// A parser for stored certificates that accepts only those that cover all hosts.
    fn parse(&self) -> impl Fn(&[u8]) -> anyhow::Result<Pair> + Send + 'static {
        let hosts = self.hosts.clone();
        move |pem| {
            let pair = Pair::parse(pem, pem)?;
            for host in &hosts {
                ensure!(pair.covers(host), "it does not cover {host}");
            }
            Ok(pair)
        }
    }

    /// Serves a certificate. `known` is the stored renewal, which is used if it belongs to it.
    fn take(&mut self, pair: Pair, known: Option<Renewal>) {
        let renewal = Renewal::new(&pair);
        let known = known.filter(|known| known.is_of_same(&renewal));
        self.renewal = Some(known.unwrap_or(renewal));
        self.certificates.swap(pair);
    }

    /// Stores a certificate, or else keeps it in memory for the next step.
    async fn keep(&mut self, pem: Vec<u8>) -> anyhow::Result<()> {
        let written = self.write(self.certificate.clone(), pem.clone()).await;
        if written.is_err() {
            self.unstored = Some(pem);
        }
        written.context("the certificate in use is not stored yet")
    }

    /// The back-off in the store or in memory, whichever ends later.
    async fn remembered(&self) -> anyhow::Result<Backoff> {
        let kind = self.attempts.clone();
        let parse = |content: &[u8]| Ok(serde_json::from_slice::<Backoff>(content)?);
        let stored = self.store.call(move |store| store.read(&kind, parse)).await?;
        let stored = stored.into_iter().next().unwrap_or_default();
        let later = self.backoff.not_before > stored.not_before;
        Ok(if later { self.backoff.clone() } else { stored })
    }

    async fn remember(&mut self, backoff: Backoff) -> anyhow::Result<()> {
        let content = serde_json::to_vec(&backoff)?;
        self.backoff = backoff;
        self.write(self.attempts.clone(), content).await
    }

    async fn write(&self, kind: String, content: Vec<u8>) -> anyhow::Result<()> {
        let written = self.store.call(move |store| store.write(&kind, &content)).await;
        if written.is_err() {
            warn!("cannot store a record in {}: check CERT_DIR", self.store.folder().display());
        }
        written
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// FNV-1a, because record names must not change between versions of Roomcast or Rust.
fn hash(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
