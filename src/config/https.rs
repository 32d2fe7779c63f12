//! The settings of HTTPS: under which names, where, and with which certificate.

use std::{net::IpAddr, path::PathBuf};

use super::{
    Check, ListenAddr, Settings,
    dns::{Dns, dns},
    given,
    parse::{CREDENTIALS, has_credentials},
};

const HTTPS_ADDR: &str = ":443";
/// Where a public name is found, whatever `HTTPS_ADDR` says: between the two, containers and load
/// balancers map ports.
const PUBLIC_PORT: u16 = 443;
pub(super) const ACME_CA: &str = "auto";
pub(super) const ACME_CHALLENGE: &str = "auto";
/// Bytes of a host's name, from DNS.
const MAX_HOST: usize = 253;
/// Bytes of a part of it.
const MAX_LABEL: usize = 63;

/// HTTPS of our own.
#[derive(Clone, Debug, PartialEq)]
pub struct Https {
    /// Where page and sockets are served.
    pub addr: ListenAddr,
    /// The port at which the hosts are reached from outside; `None` = the one of `addr`.
    pub public_port: Option<u16>,
    /// Where the certificate comes from.
    pub certificate: CertificateSource,
}

/// Where a certificate comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum CertificateSource {
    /// Somebody else keeps them new.
    Files(CertificateFiles),
    /// We order them.
    Acme(Acme),
}

/// How certificates are ordered.
#[derive(Clone, Debug, PartialEq)]
pub struct Acme {
    /// From whom.
    pub ca: Authority,
    /// Roots to trust when talking to the CA, besides Mozilla's; PEM.
    pub ca_root: Option<PathBuf>,
    /// Whom the CA may write to.
    pub email: Option<String>,
    /// How it is proven that the hosts are ours.
    pub challenge: Challenge,
    /// Where certificates, account keys and back-off are kept.
    pub store: PathBuf,
}

/// Who issues certificates.
#[derive(Clone, Debug, PartialEq)]
pub enum Authority {
    /// Let's Encrypt's production, or its staging where a restart would forget what was issued.
    Auto,
    /// Let's Encrypt.
    Production,
    /// Let's Encrypt's rehearsal: nobody trusts its certificates.
    Staging,
    /// An ACME directory.
    Url(String),
}

/// How the CA sees that a host is ours.
#[derive(Clone, Debug, PartialEq)]
pub enum Challenge {
    /// By a TLS handshake at the host's port 443.
    TlsAlpn01,
    /// By a request at the host's port 80.
    Http01,
    /// By a TXT record beside the host's; the only one for wildcards.
    Dns01(Box<Dns>),
}

/// Two files in PEM format.
#[derive(Clone, Debug, PartialEq)]
pub struct CertificateFiles {
    /// The chain, our own certificate first.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// What `RTHOST` says.
#[derive(Default)]
pub(super) struct Hosts {
    /// Names in small letters, without duplicates, wildcards last.
    pub names: Vec<String>,
    /// The first one's port.
    port: Option<u16>,
}

/// HTTPS, if there is to be any.
pub(super) fn https(check: &mut Check, settings: &Settings, hosts: &Hosts) -> Option<Https> {
    let Hosts { names: hosts, port } = hosts;
    let public_port = (!hosts.is_empty()).then(|| port.unwrap_or(PUBLIC_PORT));
    let addr = check.value("HTTPS_ADDR", &settings.https_addr, HTTPS_ADDR, str::parse);
    let file = |file: &Option<String>| given(file.clone()).map(PathBuf::from);
    match (file(&settings.tls_cert), file(&settings.tls_key)) {
        (Some(cert), Some(key)) => {
            let certificate = CertificateSource::Files(CertificateFiles { cert, key });
            Some(Https { addr: addr?, public_port, certificate })
        }
        (Some(_), None) => {
            check.problem("TLS_KEY", "TLS_CERT is set, and its key is missing".to_owned());
            None
        }
        (None, Some(_)) => {
            check.problem("TLS_CERT", "TLS_KEY is set, and its certificate is missing".to_owned());
            None
        }
        (None, None) if !hosts.is_empty() => {
            let certificate = CertificateSource::Acme(acme(check, settings, hosts)?);
            Some(Https { addr: addr?, public_port, certificate })
        }
        (None, None) => {
            if !settings.https_addr.trim().is_empty() {
                let problem = "there is no certificate for it; set RTHOST, or TLS_CERT and TLS_KEY";
                check.problem("HTTPS_ADDR", problem.to_owned());
            }
            None
        }
    }
}

fn acme(check: &mut Check, settings: &Settings, hosts: &[String]) -> Option<Acme> {
    if let Some(host) = hosts.iter().find(|host| host.parse::<IpAddr>().is_ok()) {
        let problem = format!("`{host}` is an address; certificates are ordered for names");
        check.problem("RTHOST", problem);
    }
    let ca = check.value("ACME_CA", &settings.acme_ca, ACME_CA, authority);
    let problems = check.0.len();
    let dns = dns(check, &settings.dns);
    // What is wrong with the provider has been said; it is not missing.
    let challenge = if check.0.len() > problems {
        None
    } else {
        check.value("ACME_CHALLENGE", &settings.acme_challenge, ACME_CHALLENGE, |text| {
            challenge(text, dns.clone())
        })
    };
    let wildcard = hosts.iter().find(|host| host.starts_with('*'));
    if let (Some(host), Some(Challenge::TlsAlpn01 | Challenge::Http01)) = (wildcard, &challenge) {
        let problem = format!(
            "`{host}` takes dns-01: set a DNS provider, e.g. CLOUDFLARE_DNS_API_TOKEN or EXEC_PATH; or TLS_CERT and TLS_KEY"
        );
        check.problem("RTHOST", problem);
    }
    let ca_root = given(settings.acme_ca_root.clone()).map(PathBuf::from);
    let email = given(settings.acme_email.clone());
    if let Some(email) = email.as_deref().filter(|email| !email.contains('@')) {
        check.problem("ACME_EMAIL", format!("`{email}` is no e-mail address"));
    }
    let store = given(settings.cert_dir.clone()).map(PathBuf::from).or_else(data_folder);
    if store.is_none() {
        let problem = "neither HOME nor XDG_DATA_HOME says where; set a folder that stays";
        check.problem("CERT_DIR", problem.to_owned());
    }
    Some(Acme { ca: ca?, ca_root, email, challenge: challenge?, store: store? })
}

/// The XDG base directory specification's folder for data, and ours in it.
fn data_folder() -> Option<PathBuf> {
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
    data.map(|data| data.join("roomcast"))
}

fn authority(text: &str) -> Result<Authority, String> {
    match text {
        "auto" => Ok(Authority::Auto),
        "production" => Ok(Authority::Production),
        "staging" => Ok(Authority::Staging),
        other => match url::Url::parse(other) {
            Ok(url) if has_credentials(&url) => Err(CREDENTIALS.to_owned()),
            Ok(url) if url.scheme() == "https" => Ok(Authority::Url(other.to_owned())),
            _ => {
                Err(format!("`{other}` is no CA; write auto, production, staging or an https URL"))
            }
        },
    }
}

fn challenge(text: &str, dns: Option<Dns>) -> Result<Challenge, String> {
    match (text, dns) {
        ("auto" | "dns-01", Some(dns)) => Ok(Challenge::Dns01(Box::new(dns))),
        ("auto", None) | ("tls-alpn-01", _) => Ok(Challenge::TlsAlpn01),
        ("http-01", _) => Ok(Challenge::Http01),
        ("dns-01", None) => {
            Err("dns-01 takes a DNS provider: set e.g. CLOUDFLARE_DNS_API_TOKEN, EXEC_PATH or HTTPREQ_ENDPOINT".to_owned())
        }
        _ => Err(format!("`{text}` is no challenge; write auto, tls-alpn-01, http-01 or dns-01")),
    }
}

/// Host names, comma-separated; the first may name a port.
pub(super) fn hosts(text: &str) -> Result<Hosts, String> {
    let (mut names, mut with_port): (Vec<String>, _) = (Vec::new(), None);
    for host in text.split(',').map(str::trim).filter(|host| !host.is_empty()) {
        let (name, port) =
            host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
        let name = name.to_ascii_lowercase();
        let port = port.map(|port| port.parse().ok().filter(|&port: &u16| port > 0));
        if !is_host(name.strip_prefix("*.").unwrap_or(&name)) || port == Some(None) {
            return Err(format!(
                "`{host}` is no host name; write e.g. rt.example.com, or rt.example.com:8443"
            ));
        }
        if let Some(port) = port.flatten() {
            with_port = Some((name.clone(), port));
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
    // Plain requests are redirected to the first one.
    names.sort_by_key(|name| name.starts_with('*'));
    if names.first().is_some_and(|name| name.starts_with('*')) {
        return Err("names wildcards alone; add a host that can be redirected to".to_owned());
    }
    if let Some((name, _)) = with_port.as_ref().filter(|(name, _)| names.first() != Some(name)) {
        return Err(format!(
            "`{name}` has a port; only the first host, which is redirected to, may have one"
        ));
    }
    Ok(Hosts { names, port: with_port.map(|(_, port)| port) })
}

pub(super) fn is_host(host: &str) -> bool {
    let is_label = |label: &str| {
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(letters)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= MAX_HOST && host.split('.').all(is_label)
}
