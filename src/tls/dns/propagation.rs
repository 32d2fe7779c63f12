//! Waits for TXT records to propagate: every authoritative name server of the zone that answers, or
//! every configured resolver that answers, must return them.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use hickory_resolver::{
    Resolver, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::rr::RData,
};
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::Txt;
use crate::{
    config::Dns,
    tls::backoff::{Class, Failure},
};

/// The pause between two rounds of queries.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Time limit of one query.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long to wait if no name server answers. A firewall that blocks port 53 must not make the
/// order fail.
const BLIND_WAIT: Duration = Duration::from_secs(30);
/// The port of name servers.
const DNS_PORT: u16 = 53;

/// Waits until all `records` are returned. If no name server answers, waits 30 s instead.
///
/// # Errors
///
/// A name server answers after `ACME_DNS_WAIT` that a record is still missing.
pub async fn wait(records: &[Txt], settings: &Dns) -> Result<(), Failure> {
    let mut names: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for txt in records {
        names.entry(&txt.name).or_default().push(&txt.value);
    }
    let deadline = Instant::now() + settings.wait;
    for (name, values) in names {
        let servers = match settings.resolvers.is_empty() {
            true => match TokioResolver::builder_tokio().and_then(|builder| builder.build()) {
                Ok(system) => authoritative(&system, name, DNS_PORT).await.unwrap_or_default(),
                Err(_) => Vec::new(),
            },
            false => settings.resolvers.clone(),
        };
        let recursive = !settings.resolvers.is_empty();
        let servers: Vec<_> =
            servers.iter().filter_map(|server| Server::new(*server, recursive)).collect();
        loop {
            let looks = join_all(servers.iter().map(|server| server.look(name, &values))).await;
            if looks.iter().all(|look| *look == Look::Silent) {
                warn!(
                    "no name server answers queries for {name}: waiting {} s for the TXT record",
                    BLIND_WAIT.as_secs()
                );
                sleep(BLIND_WAIT).await;
                break;
            }
            let missing = looks.iter().zip(&servers).find(|(look, _)| **look == Look::Missing);
            let Some((_, server)) = missing else { break };
            if Instant::now() + LOOK_EVERY > deadline {
                let text = format!(
                    "the TXT record {name} is not at {} within {} s (ACME_DNS_WAIT)",
                    server.addr,
                    settings.wait.as_secs()
                );
                return Err(Failure::new(Class::Validation, text));
            }
            sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}

/// The result of querying one name server for the records of a name.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Look {
    /// It returns all of them.
    There,
    /// At least one is missing.
    Missing,
    /// It does not answer, or refuses the query.
    Silent,
}

struct Server {
    addr: SocketAddr,
    resolver: TokioResolver,
}

impl Server {
    fn new(addr: SocketAddr, recursive: bool) -> Option<Self> {
        let connections =
            [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = addr.port();
                connection
            });
        let server = NameServerConfig::new(addr.ip(), true, connections.into());
        let config = ResolverConfig::from_name_servers(vec![server]);
        let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.cache_size = 0;
        options.attempts = 1;
        options.timeout = ANSWER_TIMEOUT;
        options.recursion_desired = recursive;
        Some(Self { addr, resolver: builder.build().ok()? })
    }

    async fn look(&self, name: &str, values: &[&str]) -> Look {
        match self.resolver.txt_lookup(format!("{name}.")).await {
            Ok(found) => {
                let texts: Vec<_> =
                    found.answers().iter().filter_map(|record| text(&record.data)).collect();
                match values.iter().all(|value| texts.iter().any(|text| text == value.as_bytes())) {
                    true => Look::There,
                    false => Look::Missing,
                }
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(_))) => Look::Missing,
            Err(_) => Look::Silent,
        }
    }
}

fn text(data: &RData) -> Option<Vec<u8>> {
    match data {
        RData::TXT(txt) => Some(txt.txt_data.concat()),
        _ => None,
    }
}

/// The addresses of the authoritative name servers for `name`, found with the resolver `system`:
/// the NS records of the closest domain, from `name` upwards, that has any. Empty if none has.
async fn authoritative(
    system: &TokioResolver,
    name: &str,
    port: u16,
) -> Result<Vec<SocketAddr>, NetError> {
    let mut zone = name;
    while let Some((_, parent)) = zone.split_once('.') {
        let found = match system.ns_lookup(format!("{zone}.")).await {
            Ok(found) => found,
            Err(NetError::Dns(DnsError::NoRecordsFound(_))) => {
                zone = parent;
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut servers = Vec::new();
        for record in found.answers() {
            let RData::NS(server) = &record.data else { continue };
            if let Ok(found) = system.lookup_ip(server.0.clone()).await {
                servers.extend(found.iter().map(|ip| SocketAddr::new(ip, port)));
            }
        }
        return Ok(servers);
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests;
