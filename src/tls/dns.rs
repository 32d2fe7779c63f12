//! DNS-01: TXT records made by a provider, waited for, and always removed.

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

/// A TXT record that shows that a host is ours, and the challenge that it answers.
#[derive(Clone, Debug)]
pub struct Txt {
    /// The host, without the `*.` of a wildcard: it and the wildcard share a name.
    pub host: String,
    /// The record's name.
    pub name: String,
    /// The record's content.
    pub value: String,
    /// The challenge.
    pub token: String,
    /// The answer to the challenge, of which the value is a hash.
    pub key_authorization: String,
}

impl Txt {
    /// For a host's challenge.
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

/// Makes TXT records. One is made for each order, with the credentials as they are then.
#[async_trait]
pub trait Provider: Send + Sync {
    /// The zone that a host's records go to, as far as we have to know it. Asked before anything is
    /// ordered, so that credentials that do not reach it cost nothing at the CA.
    async fn zone(&self, host: &str) -> Result<Option<String>, Failure>;

    /// Adds a record; others of its name stay.
    async fn present(&self, txt: &Txt) -> Result<(), Failure>;

    /// Removes this record alone. It may have been made in part, or not at all.
    async fn clean_up(&self, txt: &Txt) -> Result<(), Failure>;
}

/// The provider that is set, with its credentials read.
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

/// The records of one order.
pub struct Records {
    provider: Box<dyn Provider>,
    settings: Dns,
    made: Vec<Txt>,
}

impl Records {
    /// None yet, but it is known that they can be made.
    pub async fn begin(settings: &Dns, hosts: &[String], client: &Client) -> Result<Self, Failure> {
        let provider = provider(&settings.provider, client).await?;
        for host in hosts {
            provider.zone(host.strip_prefix("*.").unwrap_or(host)).await?;
        }
        Ok(Self { provider, settings: settings.clone(), made: Vec::new() })
    }

    /// Makes one.
    pub async fn add(&mut self, txt: Txt) -> Result<(), Failure> {
        // Taken down first: what is made in part has to be removed, too.
        self.made.push(txt.clone());
        self.provider.present(&txt).await
    }

    /// Waits until all of them are there.
    pub async fn wait(&self) -> Result<(), Failure> {
        propagation::wait(&self.made, &self.settings).await
    }

    /// Removes all of them, one after the other: they may share a name.
    pub async fn clear(self) {
        for txt in &self.made {
            if let Err(Failure { text, .. }) = self.provider.clean_up(txt).await {
                warn!("the TXT record {} {} is not removed: {text}", txt.name, txt.value);
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

/// Of what a provider says.
fn excerpt(text: &str) -> String {
    const MAX: usize = 300;
    let text = text.trim();
    let begin = text.char_indices().rev().nth(MAX - 1).map_or(0, |(at, _)| at);
    text[begin..].split_whitespace().collect::<Vec<_>>().join(" ")
}
