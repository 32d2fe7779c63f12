//! The settings of HTTPS: host names, listening address and certificate.

use std::{net::IpAddr, path::PathBuf};

use super::{
    Check, ListenAddr, Settings,
    dns::{Dns, dns},
    given,
    parse::{CREDENTIALS, has_credentials},
};

const HTTPS_ADDR: &str = ":443";
/// The port at which clients reach a public host name, whatever the port of `HTTPS_ADDR` is:
/// containers and load balancers map one to the other.
const PUBLIC_PORT: u16 = 443;
pub(super) const ACME_CA: &str = "auto";
pub(super) const ACME_CHALLENGE: &str = "auto";
/// Maximum length of a host name in bytes, from DNS.
const MAX_HOST: usize = 253;
/// Maximum length of a label of a host name in bytes, from DNS.
const MAX_LABEL: usize = 63;

/// The settings of the server's own HTTPS.
#[derive(Clone, Debug, PartialEq)]
pub struct Https {
    /// Address at which the page and the sockets are served.
    pub addr: ListenAddr,
    /// The port at which clients reach the hosts from outside; `None` = the port of `addr`.
    pub public_port: Option<u16>,
    /// The source of the certificate.
    pub certificate: CertificateSource,
}

/// The source of the certificate.
#[derive(Clone, Debug, PartialEq)]
pub enum CertificateSource {
    /// Files, which another program renews; they are read again when they change.
    Files(CertificateFiles),
    /// This server orders and renews it from a CA.
    Acme(Acme),
}

/// How certificates are ordered.
#[derive(Clone, Debug, PartialEq)]
pub struct Acme {
    /// The CA that issues them.
    pub ca: Authority,
    /// PEM file with root certificates to trust when connecting to the CA, besides Mozilla's and
    /// those of `SSL_CERT_FILE`.
    pub ca_root: Option<PathBuf>,
    /// E-mail address at which the CA may contact the operator.
    pub email: Option<String>,
    /// How the CA validates the host names.
    pub challenge: Challenge,
    /// Folder for certificates, account keys and the back-off after failed orders.
    pub store: PathBuf,
}

/// The CA that issues certificates.
#[derive(Clone, Debug, PartialEq)]
pub enum Authority {
    /// Let's Encrypt's production, or its staging if the issued certificates would be lost at a
    /// restart of the container.
    Auto,
    /// Let's Encrypt's production.
    Production,
    /// Let's Encrypt's staging, for tests: browsers do not trust its certificates.
    Staging,
    /// The URL of an ACME directory, with `https`.
    Url(String),
}

/// How the CA validates that this server controls a host name.
#[derive(Clone, Debug, PartialEq)]
pub enum Challenge {
    /// The CA makes a TLS handshake with the host's port 443.
    TlsAlpn01,
    /// The CA sends an HTTP request to the host's port 80.
    Http01,
    /// The CA looks up a TXT record below the host name; the only challenge for wildcards.
    Dns01(Box<Dns>),
}

/// The two PEM files of a certificate.
#[derive(Clone, Debug, PartialEq)]
pub struct CertificateFiles {
    /// The chain; the server's own certificate is the first.
    pub cert: PathBuf,
    /// The private key of the server's certificate.
    pub key: PathBuf,
}

/// The parsed value of `RTHOST`.
#[derive(Default)]
pub(super) struct Hosts {
    /// Host names in lower case, without duplicates, wildcards last.
    pub names: Vec<String>,
    /// The port of the first name, if it has one.
    port: Option<u16>,
}

/// The settings of HTTPS; `None` if it is off or a setting is invalid, which `check` notes.
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
            check
                .problem("TLS_KEY", "TLS_CERT is set, but its key is missing; set both".to_owned());
            None
        }
        (None, Some(_)) => {
            check.problem(
                "TLS_CERT",
                "TLS_KEY is set, but its certificate is missing; set both".to_owned(),
            );
            None
        }
        (None, None) if !hosts.is_empty() => {
            let certificate = CertificateSource::Acme(acme(check, settings, hosts)?);
            Some(Https { addr: addr?, public_port, certificate })
        }
        (None, None) => {
            if !settings.https_addr.trim().is_empty() {
                let problem = "HTTPS has no certificate; set RTHOST, or TLS_CERT and TLS_KEY";
                check.problem("HTTPS_ADDR", problem.to_owned());
            }
            None
        }
    }
}

fn acme(check: &mut Check, settings: &Settings, hosts: &[String]) -> Option<Acme> {
    if let Some(host) = hosts.iter().find(|host| host.parse::<IpAddr>().is_ok()) {
        let problem = format!(
            "`{host}` is an address, but certificates are ordered for names; write a host name, or set TLS_CERT and TLS_KEY"
        );
        check.problem("RTHOST", problem);
    }
    let ca = check.value("ACME_CA", &settings.acme_ca, ACME_CA, authority);
    let problems = check.0.len();
    let dns = dns(check, &settings.dns);
    // If the provider's settings have problems, these are noted already: do not report the provider
    // as missing too.
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
            "`{host}` needs dns-01; set a DNS provider, e.g. CLOUDFLARE_DNS_API_TOKEN or EXEC_PATH, or set TLS_CERT and TLS_KEY"
        );
        check.problem("RTHOST", problem);
    }
    let ca_root = given(settings.acme_ca_root.clone()).map(PathBuf::from);
    let email = given(settings.acme_email.clone());
    if let Some(email) = email.as_deref().filter(|email| !email.contains('@')) {
        check.problem(
            "ACME_EMAIL",
            format!("`{email}` is not an e-mail address; write e.g. admin@example.com"),
        );
    }
    let store = given(settings.cert_dir.clone()).map(PathBuf::from).or_else(data_folder);
    if store.is_none() {
        let problem = "neither HOME nor XDG_DATA_HOME is set; name a folder that outlives restarts";
        check.problem("CERT_DIR", problem.to_owned());
    }
    Some(Acme { ca: ca?, ca_root, email, challenge: challenge?, store: store? })
}

/// `roomcast` in the data folder of the XDG base directory specification, whose variables have to
/// be absolute paths.
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
            _ => Err(format!(
                "`{other}` is not a CA; write auto, production, staging or an https URL"
            )),
        },
    }
}

fn challenge(text: &str, dns: Option<Dns>) -> Result<Challenge, String> {
    match (text, dns) {
        ("auto" | "dns-01", Some(dns)) => Ok(Challenge::Dns01(Box::new(dns))),
        ("auto", None) | ("tls-alpn-01", _) => Ok(Challenge::TlsAlpn01),
        ("http-01", _) => Ok(Challenge::Http01),
        ("dns-01", None) => {
            Err("dns-01 needs a DNS provider; set e.g. CLOUDFLARE_DNS_API_TOKEN, EXEC_PATH or HTTPREQ_ENDPOINT".to_owned())
        }
        _ => Err(format!("`{text}` is not a challenge; write auto, tls-alpn-01, http-01 or dns-01")),
    }
}

/// Parses comma-separated host names, of which the first may have a port.
pub(super) fn hosts(text: &str) -> Result<Hosts, String> {
    let (mut names, mut with_port): (Vec<String>, _) = (Vec::new(), None);
    for host in text.split(',').map(str::trim).filter(|host| !host.is_empty()) {
        let (name, port) =
            host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
        let name = name.to_ascii_lowercase();
        let port = port.map(|port| port.parse().ok().filter(|&port: &u16| port > 0));
        if !is_host(name.strip_prefix("*.").unwrap_or(&name)) || port == Some(None) {
            return Err(format!(
                "`{host}` is not a host name; write e.g. rt.example.com, or rt.example.com:8443"
            ));
        }
        if let Some(port) = port.flatten() {
            with_port = Some((name.clone(), port));
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
    // Plain requests are redirected to the first name, so it cannot be a wildcard. The sort is
    // stable.
    names.sort_by_key(|name| name.starts_with('*'));
    if names.first().is_some_and(|name| name.starts_with('*')) {
        return Err(
            "names only wildcards; add a host name that plain requests can be redirected to"
                .to_owned(),
        );
    }
    if let Some((name, _)) = with_port.as_ref().filter(|(name, _)| names.first() != Some(name)) {
        return Err(format!(
            "`{name}` has a port, but only the first host, to which plain requests are redirected, may have one; remove it"
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
