//! Certificates by ACME: when to order one, what to serve meanwhile, what to remember.
//!
//! Nothing is ordered unless the store has said that it is needed, and has taken down that it is
//! about to be tried: a restart loop is then no order loop, whatever ends the process.

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

/// How often the store is tried again when it fails, and what it did not take is offered again.
const STORE_RETRY: Duration = Duration::from_secs(30);
/// The clock is looked at this often at least: machines sleep, and their clocks are set.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// Letters of a host's name in a file's name, which has at most 255.
const MAX_NAME: usize = 100;

/// The one loop that orders certificates.
pub struct Acme {
    order: Order,
    hosts: Vec<String>,
    store: StoreCalls,
    certificates: Arc<Certificates>,
    metrics: Arc<Metrics>,
    /// Kinds of records in the store.
    certificate: String,
    attempts: String,
    renewals: String,
    /// When the certificate in use is to be renewed; `None` without one.
    renewal: Option<Renewal>,
    /// A certificate that the store has not taken yet.
    unstored: Option<Vec<u8>>,
    /// Somebody has mended something and does not want to wait.
    again: Arc<Notify>,
    hurry: bool,
    /// What this process remembers, should the store not take it.
    backoff: Backoff,
}

impl Acme {
    /// Chooses the CA and reads its root; asks nobody yet.
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

    /// Notified, an attempt is made at once, unless the CA has named a time itself.
    pub fn again(&self) -> Arc<Notify> {
        self.again.clone()
    }

    /// Serves what the store holds, and keeps it new, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        info!(directory = self.order.accounts.directory, store = %self.store.folder().display(), "certificates come by ACME");
        while !stop.is_cancelled() {
            let pause = match self.step(&stop).await {
                Ok(pause) => pause,
                Err(error) => {
                    // Of the store: nothing is ordered as long as it cannot be asked.
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

    /// Does what is due, and says how long nothing will be.
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

    /// When the certificate in use is renewed, if that is later. The CA is asked for its opinion
    /// when it wants to be asked; if it cannot be, that is no failure.
    async fn renewed_later(&mut self, now: u64, stop: &CancellationToken) -> Option<Renewal> {
        let mut renewal = self.renewal.clone().filter(|renewal| renewal.at > now)?;
        if renewal.ask_at <= now {
            let asked = renewal.ask(&self.order.accounts);
            let Some(answer) = stop.run_until_cancelled(asked).await else { return Some(renewal) };
            if let Err(Failure { text, .. }) = &answer {
                info!("the CA did not say when to renew: {text}");
            }
            renewal = renewal.answered(answer, now);
            if let Ok(content) = serde_json::to_vec(&renewal) {
                // Forgotten, it is asked again after a restart.
                let _ = self.write(self.renewals.clone(), content).await;
            }
            self.renewal = Some(renewal.clone());
        }
        (renewal.at > now).then_some(renewal)
    }

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
                // What was written before the attempt would forbid the next one.
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

    /// The newest one that holds; else the newest, which is better than none.
    async fn serve_stored(&mut self) -> anyhow::Result<()> {
        let (kind, parse) = (self.certificate.clone(), self.parse());
        let renewals = self.renewals.clone();
        let read = move |store: &Store| {
            let renewal = |content: &[u8]| Ok(serde_json::from_slice::<Renewal>(content)?);
            // One that is damaged is none: the CA is asked again.
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

    fn parse(&self) -> impl Fn(&[u8]) -> anyhow::Result<Pair> + Send + 'static {
        let hosts = self.hosts.clone();
        move |pem| {
            let pair = Pair::parse(pem, pem)?;
            for host in &hosts {
                ensure!(pair.covers(host), "it is not for {host}");
            }
            Ok(pair)
        }
    }

    fn take(&mut self, pair: Pair, known: Option<Renewal>) {
        let renewal = Renewal::new(&pair);
        let known = known.filter(|known| known.is_of_same(&renewal));
        self.renewal = Some(known.unwrap_or(renewal));
        self.certificates.swap(pair);
    }

    async fn keep(&mut self, pem: Vec<u8>) -> anyhow::Result<()> {
        let written = self.write(self.certificate.clone(), pem.clone()).await;
        if written.is_err() {
            self.unstored = Some(pem);
        }
        written.context("the certificate in use is not stored yet")
    }

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
            warn!("{} takes no records", self.store.folder().display());
        }
        written
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// FNV-1a: file names that stay the same from one version to the next.
fn hash(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
