//! The settings of HTTPS: under which names, where, and with which certificate.

use std::path::PathBuf;

use super::{Check, ListenAddr, Settings, given};

const HTTPS_ADDR: &str = ":443";
/// Bytes of a host's name, from DNS.
const MAX_HOST: usize = 253;
/// Bytes of a part of it.
const MAX_LABEL: usize = 63;

/// HTTPS of our own.
#[derive(Clone, Debug, PartialEq)]
pub struct Https {
    /// Where page and sockets are served.
    pub addr: ListenAddr,
    /// Where the certificate comes from.
    pub certificate: CertificateFiles,
}

/// Two files in PEM format.
#[derive(Clone, Debug, PartialEq)]
pub struct CertificateFiles {
    /// The chain, our own certificate first.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// HTTPS, if there is to be any.
pub(super) fn https(check: &mut Check, settings: &Settings) -> Option<Https> {
    let addr = check.value("HTTPS_ADDR", &settings.https_addr, HTTPS_ADDR, str::parse);
    let file = |file: &Option<String>| given(file.clone()).map(PathBuf::from);
    match (file(&settings.tls_cert), file(&settings.tls_key)) {
        (Some(cert), Some(key)) => {
            Some(Https { addr: addr?, certificate: CertificateFiles { cert, key } })
        }
        (Some(_), None) => {
            check.problem("TLS_KEY", "TLS_CERT is set, and its key is missing".to_owned());
            None
        }
        (None, Some(_)) => {
            check.problem("TLS_CERT", "TLS_KEY is set, and its certificate is missing".to_owned());
            None
        }
        (None, None) => {
            if !settings.https_addr.trim().is_empty() {
                let problem = "there is no certificate for it; set TLS_CERT and TLS_KEY";
                check.problem("HTTPS_ADDR", problem.to_owned());
            }
            None
        }
    }
}

/// Host names, comma-separated, in small letters and without duplicates.
pub(super) fn hosts(text: &str) -> Result<Vec<String>, String> {
    let mut hosts: Vec<String> = Vec::new();
    for host in text.split(',').map(str::trim).filter(|host| !host.is_empty()) {
        let host = host.to_ascii_lowercase();
        if !is_host(host.strip_prefix("*.").unwrap_or(&host)) {
            return Err(format!("`{host}` is no host name; write e.g. rt.example.com"));
        }
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    // Plain requests are redirected to the first one.
    hosts.sort_by_key(|host| host.starts_with('*'));
    if hosts.first().is_some_and(|host| host.starts_with('*')) {
        return Err("names wildcards alone; add a host that can be redirected to".to_owned());
    }
    Ok(hosts)
}

fn is_host(host: &str) -> bool {
    let is_label = |label: &str| {
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(letters)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= MAX_HOST && host.split('.').all(is_label)
}
