//! The settings of DNS-01: the provider that creates TXT records, its credentials, and the name
//! servers that are asked for the records.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{
    Check, Credential, DnsSettings,
    credential::credential,
    duration, given,
    parse::{CREDENTIALS, has_credentials},
    split_host_port,
};

pub(super) const ACME_DNS_WAIT: &str = "2m";
pub(super) const CLOUDFLARE_API_URL: &str = "https://api.cloudflare.com/client/v4";
/// Slow providers take minutes to publish a record, but a CA does not keep an order open forever.
const WAIT_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// The port of a name server whose address has none.
const DNS_PORT: u16 = 53;
/// How TXT records are created, and how long they may take to be published.
#[derive(Clone, Debug, PartialEq)]
pub struct Dns {
    /// The provider that creates them.
    pub provider: DnsProvider,
    /// Name servers that are asked whether a record is published; empty = the zone's own ones.
    pub resolvers: Vec<SocketAddr>,
    /// How long the server waits until a record is published.
    pub wait: Duration,
}

/// The provider that creates TXT records.
#[derive(Clone, Debug, PartialEq)]
pub enum DnsProvider {
    /// Cloudflare's API at this URL.
    Cloudflare(String, CloudflareAccess),
    /// A program that is called once for each change.
    Exec {
        /// Path of the program; a bare name is looked up in `PATH`.
        path: PathBuf,
        /// The program gets the challenge itself (host, token, key authorization) instead of the
        /// record.
        raw: bool,
    },
    /// An HTTP server that is sent a request for each change.
    HttpReq {
        /// URL without `/present` or `/cleanup`, and without a slash at its end.
        endpoint: String,
        /// The server gets the challenge itself (host, token, key authorization) instead of the
        /// record.
        raw: bool,
        /// User name and password, if the server asks for them.
        user: Option<(Credential, Credential)>,
    },
}

/// How requests to Cloudflare's API are authenticated.
#[derive(Clone, Debug, PartialEq)]
pub enum CloudflareAccess {
    /// An API token that may edit the zone's records, and optionally another that may read the
    /// zone.
    Token(Credential, Option<Credential>),
    /// The account's e-mail address and its global API key.
    Key(Credential, Credential),
}

/// The settings of DNS-01; `None` if no provider is set or a setting is invalid, which `check`
/// notes.
pub(super) fn dns(check: &mut Check, settings: &DnsSettings) -> Option<Dns> {
    let provider = provider(check, settings);
    let resolvers = given(settings.acme_dns_resolvers.clone())
        .map_or(Some(Vec::new()), |text| check.take("ACME_DNS_RESOLVERS", resolvers(&text)));
    let wait = check.value("ACME_DNS_WAIT", &settings.acme_dns_wait, ACME_DNS_WAIT, |text| {
        duration(text, WAIT_RANGE)
    });
    Some(Dns { provider: provider?, resolvers: resolvers?, wait: wait? })
}

fn provider(check: &mut Check, settings: &DnsSettings) -> Option<DnsProvider> {
    let found = [
        ("cloudflare", cloudflare(check, settings)),
        ("exec", exec(check, settings)),
        ("httpreq", httpreq(check, settings)),
    ];
    let there = |provider: &Found| !matches!(provider, Found::Nothing(_));
    let asked = given(settings.acme_dns.clone());
    let chosen = match asked.as_deref() {
        Some(asked) => match found.into_iter().find(|(name, _)| *name == asked) {
            Some((_, Found::Nothing(missing))) => Err(format!("{asked} needs {missing}")),
            Some((_, found)) => Ok(found),
            None => Err(format!("`{asked}` is not a provider; write cloudflare, exec or httpreq")),
        },
        None => {
            let found: Vec<_> = found.into_iter().filter(|(_, found)| there(found)).collect();
            match found.len() {
                0 => return None,
                1 => Ok(found.into_iter().next()?.1),
                _ => {
                    let names: Vec<_> = found.iter().map(|(name, _)| *name).collect();
                    Err(format!("there are settings of {}; name one", names.join(" and ")))
                }
            }
        }
    };
    match check.take("ACME_DNS", chosen)? {
        Found::All(provider) => Some(provider),
        Found::Nothing(_) | Found::Wrong => None,
    }
}

/// The settings of a provider, as far as they are set.
enum Found {
    /// No setting is set; this one would be needed.
    Nothing(&'static str),
    /// A setting is missing or invalid, and the problem has been noted.
    Wrong,
    /// All settings that the provider needs.
    All(DnsProvider),
}

fn cloudflare(check: &mut Check, settings: &DnsSettings) -> Found {
    let settings = settings.clone();
    let mut credential = |name, value, file| credential(check, name, value, file);
    let token = credential(
        "CLOUDFLARE_DNS_API_TOKEN",
        settings.cloudflare_dns_api_token,
        settings.cloudflare_dns_api_token_file,
    );
    let zone = credential(
        "CLOUDFLARE_ZONE_API_TOKEN",
        settings.cloudflare_zone_api_token,
        settings.cloudflare_zone_api_token_file,
    );
    let email =
        credential("CLOUDFLARE_EMAIL", settings.cloudflare_email, settings.cloudflare_email_file);
    let key = credential(
        "CLOUDFLARE_API_KEY",
        settings.cloudflare_api_key,
        settings.cloudflare_api_key_file,
    );
    let access = match (token, email, key) {
        (Some(token), _, _) => CloudflareAccess::Token(token, zone),
        (None, Some(email), Some(key)) => CloudflareAccess::Key(email, key),
        (None, None, None) => return Found::Nothing("CLOUDFLARE_DNS_API_TOKEN"),
        (None, Some(email), None) => {
            let problem = format!("{} is set, but its key is missing; set both", email.setting);
            check.problem("CLOUDFLARE_API_KEY", problem);
            return Found::Wrong;
        }
        (None, None, Some(key)) => {
            let problem = format!(
                "{} is set, but its e-mail address is missing; if the key is an API token, set it as CLOUDFLARE_DNS_API_TOKEN",
                key.setting
            );
            check.problem("CLOUDFLARE_EMAIL", problem);
            return Found::Wrong;
        }
    };
    let url =
        check.value("CLOUDFLARE_API_URL", &settings.cloudflare_api_url, CLOUDFLARE_API_URL, url);
    url.map_or(Found::Wrong, |url| Found::All(DnsProvider::Cloudflare(url, access)))
}

fn exec(check: &mut Check, settings: &DnsSettings) -> Found {
    let raw = check.take("EXEC_MODE", is_raw(settings.exec_mode.clone()));
    let Some(path) = given(settings.exec_path.clone()).map(PathBuf::from) else {
        return Found::Nothing("EXEC_PATH");
    };
    // A bare name is looked up in PATH when the program is called.
    if path.components().count() > 1 && !path.is_file() {
        check.problem("EXEC_PATH", format!("`{}` is not a file; name a program", path.display()));
        return Found::Wrong;
    }
    raw.map_or(Found::Wrong, |raw| Found::All(DnsProvider::Exec { path, raw }))
}

fn httpreq(check: &mut Check, settings: &DnsSettings) -> Found {
    let raw = check.take("HTTPREQ_MODE", is_raw(settings.httpreq_mode.clone()));
    let Some(endpoint) = given(settings.httpreq_endpoint.clone()) else {
        return Found::Nothing("HTTPREQ_ENDPOINT");
    };
    let endpoint = check.take("HTTPREQ_ENDPOINT", url(&endpoint));
    let settings = settings.clone();
    let mut credential = |name, value, file| credential(check, name, value, file);
    let name =
        credential("HTTPREQ_USERNAME", settings.httpreq_username, settings.httpreq_username_file);
    let password =
        credential("HTTPREQ_PASSWORD", settings.httpreq_password, settings.httpreq_password_file);
    let user = match (name, password) {
        (Some(name), Some(password)) => Some((name, password)),
        (None, None) => None,
        (name, password) => {
            let missing = if name.is_none() { "HTTPREQ_USERNAME" } else { "HTTPREQ_PASSWORD" };
            let there = name.or(password).map(|there| there.setting).unwrap_or_default();
            check.problem(missing, format!("{there} is set, but this is missing; set both"));
            return Found::Wrong;
        }
    };
    match (endpoint, raw) {
        (Some(endpoint), Some(raw)) => Found::All(DnsProvider::HttpReq { endpoint, raw, user }),
        _ => Found::Wrong,
    }
}

fn is_raw(mode: Option<String>) -> Result<bool, String> {
    match given(mode).as_deref() {
        None => Ok(false),
        Some("RAW") => Ok(true),
        Some(other) => Err(format!("`{other}` is not a mode; write RAW, or leave it unset")),
    }
}

/// An http or https URL without the slash at its end. Errors do not repeat the text, since it may
/// hold credentials.
fn url(text: &str) -> Result<String, String> {
    match url::Url::parse(text) {
        Ok(url) if has_credentials(&url) => Err(CREDENTIALS.to_owned()),
        Ok(url) if matches!(url.scheme(), "https" | "http") && url.has_host() => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err("it is not an http or https URL; write e.g. https://dns.example.com".to_owned()),
    }
}

fn resolvers(text: &str) -> Result<Vec<SocketAddr>, String> {
    let one = |text: &str| {
        let (host, port) = match text.parse::<IpAddr>() {
            Ok(address) => (address.to_string(), None),
            Err(_) => split_host_port(text)?,
        };
        let address = host.parse().map_err(|_| {
            format!("`{text}` is not an address; write e.g. 1.1.1.1, 10.0.0.53:5353 or [::1]:53")
        })?;
        Ok(SocketAddr::new(address, port.unwrap_or(DNS_PORT)))
    };
    text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(one).collect()
}

#[cfg(test)]
mod tests;
