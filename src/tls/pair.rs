//! A certificate chain with its private key: parsing, checks and the facts that are reported.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use humantime::format_rfc3339_seconds;
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::ring::default_provider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::{CertifiedKey, SigningKey},
};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, parse_x509_certificate, time::ASN1Time,
};

use super::pem;

/// A private key, its certificate chain, and the fields of the chain's first certificate.
pub struct Pair {
    /// The key and the chain, as handshakes use them.
    pub key: Arc<CertifiedKey>,
    /// The host names, wildcards and IP addresses in its subject alternative names.
    pub names: Vec<String>,
    /// The distinguished name of the issuer.
    pub issuer: String,
    /// The serial number in hexadecimal digits.
    pub serial: String,
    /// The start of its validity.
    pub not_before: SystemTime,
    /// The end of its validity.
    pub not_after: SystemTime,
}

impl Pair {
    /// Parses a chain and a key in PEM. An expired certificate is not an error.
    ///
    /// # Errors
    ///
    /// The chain or the key cannot be parsed, or the key does not belong to the certificate. The
    /// error says which of the two is wrong.
    pub fn parse(chain: &[u8], key: &[u8]) -> anyhow::Result<Self> {
        let chain = pem::certificates(chain)?;
        let key = default_provider()
            .key_provider
            .load_private_key(pem::private_key(key)?)
            .context("the key cannot be used; RSA from 2,048 bits, P-256, P-384 and Ed25519 can")?;
        let (_, leaf) =
            parse_x509_certificate(&chain[0]).context("the certificate cannot be parsed")?;
        check_owner(&*key, &leaf, &chain)?;
        let names = match leaf.subject_alternative_name() {
            Ok(Some(extension)) => extension.value.general_names.iter().filter_map(name).collect(),
            _ => Vec::new(),
        };
        let (issuer, serial) = (leaf.issuer().to_string(), format!("{:x}", leaf.serial));
        let validity = leaf.validity();
        let (not_before, not_after) = (time(validity.not_before), time(validity.not_after));
        let key = Arc::new(CertifiedKey::new(chain, key));
        Ok(Self { key, names, issuer, serial, not_before, not_after })
    }

    /// Checks that the certificate is valid at `now`; the error says why it is not.
    pub fn holds(&self, now: SystemTime) -> anyhow::Result<()> {
        if now < self.not_before {
            bail!("the certificate is valid only from {}", format_rfc3339_seconds(self.not_before));
        }
        if now >= self.not_after {
            bail!("the certificate expired at {}", format_rfc3339_seconds(self.not_after));
        }
        Ok(())
    }

    /// Whether the certificate covers a host. A wildcard such as `*.example.com` matches one label.
    pub fn covers(&self, host: &str) -> bool {
        self.names.iter().any(|name| {
            name.eq_ignore_ascii_case(host)
                || name.strip_prefix("*.").is_some_and(|parent| {
                    host.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent))
                })
        })
    }

    /// The first name that is not a wildcard.
    pub fn host(&self) -> Option<&str> {
        self.names.iter().map(String::as_str).find(|name| !name.starts_with('*'))
    }

    /// Whether a client that trusts `roots` accepts the certificate for `host` at `now`.
    pub fn is_trusted(&self, roots: Arc<RootCertStore>, host: &str, now: SystemTime) -> bool {
        let Ok(name) = ServerName::try_from(host.to_owned()) else { return false };
        let provider = Arc::new(default_provider());
        let Ok(verifier) = WebPkiServerVerifier::builder_with_provider(roots, provider).build()
        else {
            return false;
        };
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (leaf, rest) = (&self.key.cert[0], &self.key.cert[1..]);
        let now = UnixTime::since_unix_epoch(since);
        verifier.verify_server_cert(leaf, rest, &name, &[], now).is_ok()
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = format_rfc3339_seconds(self.not_after);
        write!(f, "for {} by {}, until {until}", self.names.join(", "), self.issuer)
    }
}

/// Checks that a key belongs to the first certificate of a chain.
fn check_owner(
    key: &dyn SigningKey,
    leaf: &X509Certificate<'_>,
    chain: &[CertificateDer<'_>],
) -> anyhow::Result<()> {
    // Not by rustls, which refuses certificates of version 1.
    let Some(public) = key.public_key() else { return Ok(()) };
    let owns = |certificate: &X509Certificate<'_>| certificate.public_key().raw == &*public;
    if owns(leaf) {
        return Ok(());
    }
    let mut rest = chain.iter().skip(1).filter_map(|other| parse_x509_certificate(other).ok());
    if rest.any(|(_, other)| owns(&other)) {
        bail!(
            "the chain is in the wrong order: the certificate of the key comes first, then the one \
             that has signed it"
        );
    }
    bail!("the key does not belong to the certificate")
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => {
                <[u8; 4]>::try_from(*bytes).ok().map(|ip| std::net::Ipv4Addr::from(ip).to_string())
            }
            _ => {
                <[u8; 16]>::try_from(*bytes).ok().map(|ip| std::net::Ipv6Addr::from(ip).to_string())
            }
        },
        _ => None,
    }
}

/// Converts a certificate's time. Times before 1970 become 1970, which is past as well.
fn time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests;
