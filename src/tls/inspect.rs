//! Checks of certificates, their store, their CA and DNS zones for `roomcast doctor`. They are
//! read-only: nothing is ordered or written.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, anyhow, ensure};
use http::Request;
use http_body_util::Full;
use humantime::format_rfc3339_seconds;
use rustls::RootCertStore;
use tokio::task::spawn_blocking;

pub use super::acme::authority::is_forgotten;
use super::{
    acme::authority,
    backoff::{Backoff, Class, Failure},
    dns::provider,
    pair::Pair,
    roots,
};
use crate::{
    config::{Acme, CertificateFiles, Dns},
    store::Store,
};

/// What `doctor` reports about a certificate.
pub struct Certificate {
    /// Its names, its issuer and its time of expiry, as one phrase.
    pub text: String,
    /// Why it is not valid now; `None` if it is valid.
    pub problem: Option<String>,
    /// The configured hosts that it does not cover.
    pub missing: Vec<String>,
    /// Whether browsers trust it: it is valid now, covers the host, and leads to a known root.
    pub trusted: bool,
}

/// What `doctor` reports about the store of an ACME setup.
pub struct Stored {
    /// The newest certificate of each kind of record.
    pub certificates: Vec<Certificate>,
    /// The last failures that still delay the next attempt.
    pub failures: Vec<String>,
}

/// The CA that certificates are ordered from.
pub struct Ca {
    /// The URL of its ACME directory.
    pub directory: String,
    /// Whether it is Let's Encrypt's staging because the store is lost at a container restart.
    pub rehearsal: bool,
}

impl Certificate {
    fn new(pair: &Pair, hosts: &[String], roots: &Arc<RootCertStore>) -> Self {
        let now = SystemTime::now();
        let host = hosts.first().map(String::as_str).or(pair.host());
        Self {
            text: pair.to_string(),
            problem: pair.holds(now).err().map(|reason| reason.to_string()),
            missing: hosts.iter().filter(|host| !pair.covers(host)).cloned().collect(),
            trusted: host.is_some_and(|host| pair.is_trusted(roots.clone(), host, now)),
        }
    }
}

/// Reads the certificate in `TLS_CERT` and `TLS_KEY`. Files that cannot be read or parsed are an
/// error; an expired certificate is not.
pub async fn files(files: &CertificateFiles, hosts: &[String]) -> anyhow::Result<Certificate> {
    let pair = super::files::load(files).await?;
    Ok(Certificate::new(&pair, hosts, &Arc::new(roots::known().await?)))
}

/// Reads the certificates and failures in a store; both are empty if the folder does not exist.
pub async fn stored(folder: &Path, hosts: &[String]) -> anyhow::Result<Stored> {
    let (store, hosts) = (Store::new(folder.to_owned()), hosts.to_owned());
    let roots = Arc::new(roots::known().await?);
    let read = move || {
        let mut stored = Stored { certificates: Vec::new(), failures: Vec::new() };
        for kind in store.kinds("cert-")? {
            let pairs = store.read(&kind, |pem| Pair::parse(pem, pem))?;
            let newest = pairs.first().map(|pair| Certificate::new(pair, &hosts, &roots));
            stored.certificates.extend(newest);
        }
        for kind in store.kinds("attempts-")? {
            let parse = |content: &[u8]| Ok(serde_json::from_slice::<Backoff>(content)?);
            let newest = store.read(&kind, parse)?.into_iter().next();
            stored.failures.extend(newest.as_ref().and_then(failure));
        }
        anyhow::Ok(stored)
    };
    spawn_blocking(read).await?
}

/// Describes the last failure; `None` if its pause is over, since it then delays nothing.
fn failure(backoff: &Backoff) -> Option<String> {
    let (class, error) = (backoff.class?, backoff.error.as_deref()?);
    let next = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(backoff.not_before))?;
    let hint = match class {
        Class::RateLimited => "",
        _ => "; send SIGHUP to try at once",
    };
    (next > SystemTime::now()).then(|| {
        let (class, next) = (class.as_str(), format_rfc3339_seconds(next));
        format!("{error} ({class}); the next attempt is at {next}{hint}")
    })
}

/// Returns the CA that certificates would be ordered from.
pub async fn ca(acme: &Acme) -> anyhow::Result<Ca> {
    let (ca, store) = (acme.ca.clone(), acme.store.clone());
    let rehearsal = spawn_blocking(move || authority::is_rehearsal(&ca, &store)).await?;
    Ok(Ca { directory: authority::address(&acme.ca, rehearsal).to_owned(), rehearsal })
}

/// Requests the directory of a CA, which is the first request of every order.
pub async fn ask_ca(directory: &str, acme: &Acme) -> anyhow::Result<()> {
    let client = authority::client(acme.ca_root.as_deref()).await?;
    let request = Request::get(directory).body(Full::default())?;
    let answer = client.send(request).await.context("it cannot be reached")?;
    ensure!(answer.status().is_success(), "it answers with status {}", answer.status().as_u16());
    let directory: serde_json::Value = serde_json::from_slice(answer.body())
        .context("it does not answer with an ACME directory: check the URL")?;
    ensure!(
        directory.get("newOrder").is_some(),
        "its directory has no newOrder URL: check the URL"
    );
    Ok(())
}

/// Looks up the zones of `hosts` at the DNS provider, as an order does before it contacts the CA.
/// Empty for providers that find the zone themselves (`exec`, `httpreq`).
pub async fn zones(dns: &Dns, acme: &Acme, hosts: &[String]) -> anyhow::Result<Vec<String>> {
    let client = authority::client(acme.ca_root.as_deref()).await?;
    let failed = |failure: Failure| anyhow!(failure.text);
    let provider = provider(&dns.provider, &client).await.map_err(failed)?;
    let mut zones = Vec::new();
    for host in hosts {
        let host = host.strip_prefix("*.").unwrap_or(host);
        zones.extend(provider.zone(host).await.map_err(failed)?);
    }
    zones.dedup();
    Ok(zones)
}
