//! Certificates, their store and their CA, looked at: nothing is ordered, written or kept.

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

/// A certificate.
pub struct Certificate {
    /// For whom, by whom, until when.
    pub text: String,
    /// Why it does not hold now.
    pub problem: Option<String>,
    /// Those of our hosts that it is not for.
    pub missing: Vec<String>,
    /// Whether browsers trust it.
    pub trusted: bool,
}

/// What a store holds.
pub struct Stored {
    /// The newest of each kind.
    pub certificates: Vec<Certificate>,
    /// What is remembered of attempts that failed.
    pub failures: Vec<String>,
}

/// Whom certificates are ordered from.
pub struct Ca {
    /// The address of its directory.
    pub directory: String,
    /// It is but a rehearsal, because the store lies on a container's own layer.
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

/// The certificate in files of somebody else. What cannot be used at all is an error.
pub async fn files(files: &CertificateFiles, hosts: &[String]) -> anyhow::Result<Certificate> {
    let pair = super::files::load(files).await?;
    Ok(Certificate::new(&pair, hosts, &Arc::new(roots::known().await?)))
}

/// What a store holds; nothing if it is not there yet.
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

/// Unless its time is over: the next attempt is then made as if nothing had happened.
fn failure(backoff: &Backoff) -> Option<String> {
    let (class, error) = (backoff.class?, backoff.error.as_deref()?);
    let next = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(backoff.not_before))?;
    let hint = match class {
        Class::RateLimited => "",
        _ => "; SIGHUP makes it at once",
    };
    (next > SystemTime::now()).then(|| {
        let (class, next) = (class.as_str(), format_rfc3339_seconds(next));
        format!("{error} ({class}); the next attempt is at {next}{hint}")
    })
}

/// Whom certificates would be ordered from.
pub async fn ca(acme: &Acme) -> anyhow::Result<Ca> {
    let (ca, store) = (acme.ca.clone(), acme.store.clone());
    let rehearsal = spawn_blocking(move || authority::is_rehearsal(&ca, &store)).await?;
    Ok(Ca { directory: authority::address(&acme.ca, rehearsal).to_owned(), rehearsal })
}

/// Asks a CA for its directory, as an order does first.
pub async fn ask_ca(directory: &str, acme: &Acme) -> anyhow::Result<()> {
    let client = authority::client(acme.ca_root.as_deref()).await?;
    let request = Request::get(directory).body(Full::default())?;
    let answer = client.send(request).await.context("it cannot be reached")?;
    ensure!(answer.status().is_success(), "it answers {}", answer.status().as_u16());
    let directory: serde_json::Value =
        serde_json::from_slice(answer.body()).context("it answers with no directory")?;
    ensure!(directory.get("newOrder").is_some(), "its directory takes no orders");
    Ok(())
}

/// The zones of hosts at the DNS provider, as an order looks for them first; none where the provider
/// finds them itself.
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
