//! DNS-01 challenges: TXT records are created through a DNS provider, awaited, and removed after
//! each order.

use async_trait::async_trait;
use instant_acme::KeyAuthorization;
use tokio::task::spawn_blocking;
use tracing::warn;

use super::{
    backoff::{Class, Failure},
    client::Client,
};
use crate::config::{Credential, Dns, DnsProvider, Secret};

mod cloudflare;
mod exec;
mod httpreq;
mod propagation;

use cloudflare::Cloudflare;
use exec::Exec;
use httpreq::HttpReq;

/// A TXT record that lets the CA validate a host, and the challenge that it answers.
#[derive(Clone, Debug)]
pub struct Txt {
    /// The host without the `*.` of a wildcard: the records of both have the same name.
    pub host: String,
    /// The record's name, without a dot at the end.
    pub name: String,
    /// The record's content.
    pub value: String,
    /// The token of the challenge.
    pub token: String,
    /// The key authorization of RFC 8555; `value` is a hash of it.
    pub key_authorization: String,
}

impl Txt {
    /// The record for one challenge of `host`.
    pub fn new(host: &str, token: &str, answer: &KeyAuthorization) -> Self {
        Self {
            host: host.to_owned(),
            name: format!("_acme-challenge.{host}"),
            value: answer.dns_value(),
            token: token.to_owned(),
            key_authorization: answer.as_str().to_owned(),
        }
    }
}

/// Creates and removes TXT records. Each order creates its own provider, which reads the
/// credentials at that time.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Looks up the zone for a host's records; `None` if the provider finds the zone itself. Called
    /// before an order is placed, so that credentials without access to the zone do not cost a
    /// failed validation at the CA.
    async fn zone(&self, host: &str) -> Result<Option<String>, Failure>;

    /// Adds a record. Other records of the same name are kept.
    async fn present(&self, txt: &Txt) -> Result<(), Failure>;

    /// Removes this record and no other. If `present` failed, the record may exist or not; handle
    /// both.
    async fn clean_up(&self, txt: &Txt) -> Result<(), Failure>;
}

/// Creates the configured provider and reads its credentials.
pub async fn provider(
    settings: &DnsProvider,
    client: &Client,
) -> Result<Box<dyn Provider>, Failure> {
    Ok(match settings.clone() {
        DnsProvider::Cloudflare(url, access) => {
            Box::new(Cloudflare::new(url, access, client.clone()).await?)
        }
        DnsProvider::Exec { path, raw } => Box::new(Exec { path, raw }),
        DnsProvider::HttpReq { endpoint, raw, user } => {
            Box::new(HttpReq::new(endpoint, raw, user, client.clone()).await?)
        }
    })
}

/// The TXT records of one order.
///
/// [`begin`](Self::begin) checks the credentials, [`add`](Self::add) creates records,
/// [`wait`](Self::wait) waits for the name servers, and [`clear`](Self::clear) removes the records.
/// Dropping the value does not remove them, so every order ends with `clear`.
pub struct Records {
    provider: Box<dyn Provider>,
    settings: Dns,
    made: Vec<Txt>,
}

impl Records {
    /// Starts without records, and checks that the provider gives access to the zones of all hosts.
    pub async fn begin(settings: &Dns, hosts: &[String], client: &Client) -> Result<Self, Failure> {
        let provider = provider(&settings.provider, client).await?;
        for host in hosts {
            provider.zone(host.strip_prefix("*.").unwrap_or(host)).await?;
        }
        Ok(Self { provider, settings: settings.clone(), made: Vec::new() })
    }

    /// Creates a record. After a failure, [`clear`](Self::clear) removes what was created of it.
    pub async fn add(&mut self, txt: Txt) -> Result<(), Failure> {
        // Remember the record first: it may exist even if `present` fails, and must be removed.
        self.made.push(txt.clone());
        self.provider.present(&txt).await
    }

    /// Waits until the name servers return all records.
    pub async fn wait(&self) -> Result<(), Failure> {
        propagation::wait(&self.made, &self.settings).await
    }

    /// Removes all records, one after the other because they may have the same name. A record that
    /// cannot be removed is logged.
    pub async fn clear(self) {
        for txt in &self.made {
            if let Err(Failure { text, .. }) = self.provider.clean_up(txt).await {
                warn!("cannot remove the TXT record {} {}: {text}", txt.name, txt.value);
            }
        }
    }
}

async fn read(credential: Credential) -> Result<Secret, Failure> {
    let setting = credential.setting.clone();
    let read = spawn_blocking(move || credential.read()).await;
    let read = read.map_err(|error| error.to_string()).flatten();
    read.map_err(|problem| Failure::new(Class::Credentials, format!("{setting}: {problem}")))
}

fn network(error: &anyhow::Error) -> Failure {
    Failure::new(Class::Network, format!("{error:#}"))
}

/// The last 300 characters of a provider's output, in one line.
fn excerpt(text: &str) -> String {
    const MAX: usize = 300;
    let text = text.trim();
    let begin = text.char_indices().rev().nth(MAX - 1).map_or(0, |(at, _)| at);
    text[begin..].split_whitespace().collect::<Vec<_>>().join(" ")
}
