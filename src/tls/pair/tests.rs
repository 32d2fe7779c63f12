use base64::{Engine as _, prelude::BASE64_STANDARD};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

use super::*;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn at(year: i32) -> SystemTime {
    NOW + Duration::from_secs(date_time_ymd(year, 1, 1).unix_timestamp().unsigned_abs())
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2030, 1, 1);
    params
}

fn pair(names: &[&str]) -> Pair {
    let key = KeyPair::generate().expect("a key");
    let cert = params(names).self_signed(&key).expect("signed");
    Pair::parse(cert.pem().as_bytes(), key.serialize_pem().as_bytes()).expect("a pair")
}

#[test]
fn a_certificate_is_valid_from_not_before_until_not_after() {
    let pair = pair(&["a.example"]);
    assert!(pair.holds(at(2025)).is_ok());
    assert!(pair.holds(at(2020)).is_ok());
    assert!(pair.holds(at(2030)).is_err());
    assert!(pair.holds(at(2019)).is_err());
}

#[test]
fn files_are_read_as_people_have_them() {
    let key = KeyPair::generate().expect("a key");
    let cert = params(&["a.example"]).self_signed(&key).expect("signed");
    let (pem, key) = (cert.pem(), key.serialize_pem());
    let combined = format!("{key}{pem}");
    for (name, pem, key) in [
        ("CRLF", pem.replace('\n', "\r\n"), key.replace('\n', "\r\n")),
        ("a byte order mark", format!("\u{feff}{pem}"), format!("\u{feff}{key}")),
        ("no line end", pem.trim_end().to_owned(), key.trim_end().to_owned()),
        ("text before it", format!("Certificate:\n    Data:\n{pem}"), key.clone()),
        ("one file for both", combined.clone(), combined),
    ] {
        assert!(Pair::parse(pem.as_bytes(), key.as_bytes()).is_ok(), "{name}");
    }
}

#[test]
fn a_certificate_of_version_1_can_be_served() {
    const VERSION: [u8; 5] = [0xa0, 3, 2, 1, 2];
    let key = KeyPair::generate().expect("a key");
    let cert = params(&["a.example"]).self_signed(&key).expect("signed");
    let mut der = cert.der().to_vec();
    let at = der.windows(VERSION.len()).position(|part| part == VERSION).expect("a version");
    der[at + 4] = 0;
    let base64 = BASE64_STANDARD.encode(der);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
    let pair = Pair::parse(pem.as_bytes(), key.serialize_pem().as_bytes()).expect("a pair");
    assert_eq!(pair.names, ["a.example"]);
}

#[test]
fn a_wildcard_matches_one_label() {
    let pair = pair(&["*.example.com", "b.example", "127.0.0.1"]);
    for (host, covered) in [
        ("a.example.com", true),
        ("A.Example.com", true),
        ("a.b.example.com", false),
        ("example.com", false),
        ("b.example", true),
        ("127.0.0.1", true),
    ] {
        assert_eq!(pair.covers(host), covered, "{host}");
    }
    assert_eq!(pair.host(), Some("b.example"));
}

#[test]
fn trust_depends_on_root_host_and_time() {
    let root_key = KeyPair::generate().expect("a key");
    let mut root = params(&[]);
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = root.self_signed(&root_key).expect("signed");
    let key = KeyPair::generate().expect("a key");
    let cert = params(&["a.example"]).signed_by(&key, &root, &root_key).expect("signed");
    let pair = Pair::parse(cert.pem().as_bytes(), key.serialize_pem().as_bytes()).expect("a pair");
    let mut roots = RootCertStore::empty();
    roots.add(root.der().clone()).expect("a root");
    let roots = Arc::new(roots);
    assert!(pair.is_trusted(roots.clone(), "a.example", at(2025)));
    assert!(!pair.is_trusted(roots.clone(), "b.example", at(2025)));
    assert!(!pair.is_trusted(roots, "a.example", at(2031)));
    let mozilla = Arc::new(crate::tls::roots::mozilla());
    assert!(!pair.is_trusted(mozilla, "a.example", at(2025)), "this root is not in Mozilla's list");
}
