//! Checks of HTTPS: the certificate in the files or in the store, the CA, the DNS provider, and the
//! addresses of the host names.

use std::net::IpAddr;

use roomcast::{
    config::{Acme, Authority, CertificateSource, Challenge, Config, Dns},
    inspect::{self, Certificate},
};
use tokio::net::lookup_host;

use super::{Check, Finding, Verdict, check, machine};

/// The checks that the configured certificate needs; none without HTTPS.
pub fn checks(config: &Config) -> Vec<Check<'_>> {
    let Some(https) = &config.https else { return Vec::new() };
    let hosts = config.hosts.as_slice();
    let mut checks: Vec<Check<'_>> = Vec::new();
    match &https.certificate {
        CertificateSource::Files(files) => {
            let setting = "TLS_CERT";
            let look = async move {
                vec![match inspect::files(files, hosts).await {
                    Ok(certificate) => judge(setting, &certificate),
                    Err(error) => Finding::fail(setting, format!("{error:#}")),
                }]
            };
            checks.push(check(setting, look));
        }
        CertificateSource::Acme(acme) => {
            checks.push(check("CERT_DIR", store(acme, hosts)));
            checks.push(check("ACME_CA", async move { vec![ca(acme).await] }));
            if let Challenge::Dns01(dns) = &acme.challenge {
                checks.push(check("ACME_DNS", async move { vec![zones(dns, acme, hosts).await] }));
            }
        }
    }
    // A wildcard is not a name that can be looked up.
    for host in hosts.iter().filter(|host| !host.starts_with('*')) {
        let look = async move { vec![leads_here(host, &https.certificate).await] };
        checks.push(check("RTHOST", look));
    }
    checks
}

fn judge(setting: &str, certificate: &Certificate) -> Finding {
    let Certificate { text, problem, missing, trusted } = certificate;
    if let Some(problem) = problem {
        return Finding::fail(setting, format!("{problem} ({text})"));
    }
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Finding::fail(
            setting,
            format!("the certificate is not for {missing}: it is {text}"),
        );
    }
    if !trusted {
        let text = format!(
            "the certificate is {text}; browsers do not trust it: its chain leads to none of the roots of Mozilla and SSL_CERT_FILE"
        );
        return Finding::warn(setting, text);
    }
    Finding::ok(setting, format!("the certificate is {text}"))
}

async fn store(acme: &Acme, hosts: &[String]) -> Vec<Finding> {
    let setting = "CERT_DIR";
    let folder = machine::folder(setting, &acme.store).await;
    if folder.verdict == Verdict::Fail {
        return vec![folder];
    }
    let mut findings = vec![folder];
    let stored = match inspect::stored(&acme.store, hosts).await {
        Ok(stored) => stored,
        Err(error) => {
            findings.push(Finding::fail(setting, format!("{error:#}")));
            return findings;
        }
    };
    let ours = stored.certificates.iter().filter(|certificate| certificate.missing.is_empty());
    match ours.min_by_key(|certificate| (certificate.problem.is_some(), !certificate.trusted)) {
        Some(Certificate { problem: Some(problem), text, .. }) => {
            let text = format!("{problem} ({text}): a new one is ordered when the server starts");
            findings.push(Finding::warn(setting, text));
        }
        Some(certificate) => findings.push(judge(setting, certificate)),
        None => {
            let text = format!(
                "no certificate for {} yet: one is ordered when the server starts",
                hosts.join(", ")
            );
            findings.push(Finding::ok(setting, text));
        }
    }
    let failures = stored.failures.into_iter();
    findings.extend(failures.map(|failure| Finding::warn(setting, failure)));
    findings
}

async fn ca(acme: &Acme) -> Finding {
    let setting = "ACME_CA";
    let ca = match inspect::ca(acme).await {
        Ok(ca) => ca,
        Err(error) => return Finding::fail(setting, format!("{error:#}")),
    };
    let text = format!("{} answers", ca.directory);
    match inspect::ask_ca(&ca.directory, acme).await {
        Err(error) => {
            let text = format!(
                "{}: {error:#}; check ACME_CA, ACME_CA_ROOT and this machine's outbound connections",
                ca.directory
            );
            Finding::fail(setting, text)
        }
        Ok(()) if ca.rehearsal => {
            let text = format!(
                "{text}, but it is Let's Encrypt's staging, whose certificates no browser trusts, since CERT_DIR is lost with this container: mount a volume there"
            );
            Finding::warn(setting, text)
        }
        Ok(()) if acme.ca == Authority::Staging => Finding::warn(
            setting,
            format!(
                "{text}; no browser trusts certificates from staging: set ACME_CA=production for trusted ones"
            ),
        ),
        Ok(()) => Finding::ok(setting, text),
    }
}

async fn zones(dns: &Dns, acme: &Acme, hosts: &[String]) -> Finding {
    let setting = "ACME_DNS";
    match inspect::zones(dns, acme, hosts).await {
        Err(error) => Finding::fail(setting, format!("{error:#}")),
        Ok(zones) if zones.is_empty() => {
            Finding::ok(setting, "the provider is called when a certificate is ordered")
        }
        Ok(zones) => Finding::ok(setting, format!("the provider shows {}", zones.join(", "))),
    }
}

/// Checks that a host name has an address. Whether the address leads to this server cannot be seen
/// from inside.
async fn leads_here(host: &str, certificate: &CertificateSource) -> Finding {
    let setting = "RTHOST";
    let (port, by_public_ca) = match certificate {
        CertificateSource::Acme(Acme { challenge: Challenge::TlsAlpn01, ca, .. }) => {
            (Some(443), !matches!(ca, Authority::Url(_)))
        }
        CertificateSource::Acme(Acme { challenge: Challenge::Http01, ca, .. }) => {
            (Some(80), !matches!(ca, Authority::Url(_)))
        }
        _ => (None, false),
    };
    let found = lookup_host((host, 0)).await.map(|found| found.map(|addr| addr.ip()).collect());
    let mut found: Vec<IpAddr> = found.unwrap_or_default();
    found.dedup();
    if found.is_empty() {
        let text = format!("no address is found for {host}: add an A or AAAA record in its DNS");
        return match port {
            Some(_) => {
                Finding::fail(setting, format!("{text}; without one, the CA issues no certificate"))
            }
            None => Finding::warn(setting, text),
        };
    }
    let addresses: Vec<_> = found.iter().map(IpAddr::to_string).collect();
    let text = format!("{host} leads to {}", addresses.join(", "));
    match port {
        Some(port) if by_public_ca && found.iter().all(is_private) => Finding::warn(
            setting,
            format!(
                "{text} from here, which the CA cannot reach: it connects to port {port} of the public address"
            ),
        ),
        Some(port) => Finding::ok(setting, format!("{text}; the CA connects to port {port} there")),
        None => Finding::ok(setting, text),
    }
}

fn is_private(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}
