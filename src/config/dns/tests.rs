use super::*;
use crate::config::{Acme, CertificateSource, Challenge, Config, Settings};

#[test]
fn a_dns_provider_is_chosen_by_name_or_by_its_settings() {
    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }
    fn token(settings: &mut Settings) {
        settings.dns.cloudflare_dns_api_token = some("t");
    }
    let challenge = |change: fn(&mut Settings)| {
        let mut settings = Settings {
            rthost: some("a.example,*.a.example"),
            cert_dir: some("/certs"),
            ..Settings::default()
        };
        change(&mut settings);
        let config = Config::try_from(settings).map_err(|problems| problems.to_string())?;
        match config.https.map(|https| https.certificate) {
            Some(CertificateSource::Acme(Acme { challenge: Challenge::Dns01(dns), .. })) => {
                Ok::<_, String>(*dns)
            }
            other => panic!("{other:?}"),
        }
    };
    let dns = challenge(token).expect("valid");
    assert!(matches!(dns.provider, DnsProvider::Cloudflare(_, CloudflareAccess::Token(_, None))));
    assert_eq!((dns.resolvers, dns.wait), (vec![], Duration::from_secs(120)));
    let dns = challenge(|settings| {
        token(settings);
        settings.dns.exec_path = some("az-dns");
        settings.dns.exec_mode = some("RAW");
        settings.dns.acme_dns = some("exec");
        settings.dns.acme_dns_resolvers = some("1.1.1.1, [::1]:5353, ::2");
    });
    let dns = dns.expect("valid");
    assert_eq!(dns.provider, DnsProvider::Exec { path: "az-dns".into(), raw: true });
    let resolvers = ["1.1.1.1:53", "[::1]:5353", "[::2]:53"];
    assert_eq!(dns.resolvers, resolvers.map(|addr| addr.parse().expect("an address")));

    for (name, change) in [
        ("ACME_DNS", (|settings| settings.dns.acme_dns = some("azure")) as fn(&mut Settings)),
        ("ACME_DNS", |settings| settings.dns.acme_dns = some("httpreq")),
        ("ACME_DNS", |settings| {
            token(settings);
            settings.dns.exec_path = some("az-dns");
        }),
        ("ACME_DNS_RESOLVERS", |settings| settings.dns.acme_dns_resolvers = some("ns1.a.example")),
        ("ACME_DNS_WAIT", |settings| settings.dns.acme_dns_wait = "1h".into()),
        ("CLOUDFLARE_API_KEY", |settings| settings.dns.cloudflare_email = some("me@a.example")),
        ("CLOUDFLARE_EMAIL", |settings| settings.dns.cloudflare_api_key = some("hunter2")),
        ("CLOUDFLARE_DNS_API_TOKEN_FILE", |settings| {
            settings.dns.cloudflare_dns_api_token_file = some("/nowhere");
        }),
        ("EXEC_PATH", |settings| settings.dns.exec_path = some("/nowhere/az-dns")),
        ("EXEC_MODE", |settings| {
            settings.dns.exec_path = some("az-dns");
            settings.dns.exec_mode = some("raw");
        }),
        ("HTTPREQ_ENDPOINT", |settings| settings.dns.httpreq_endpoint = some("me:hunter2@b")),
        ("HTTPREQ_ENDPOINT", |settings| {
            settings.dns.httpreq_endpoint = some("https://me:hunter2@dns.a.example");
        }),
        ("CLOUDFLARE_API_URL", |settings| {
            token(settings);
            settings.dns.cloudflare_api_url = "https://hunter2@api.a.example".into();
        }),
        ("ACME_CA", |settings| {
            token(settings);
            settings.acme_ca = "https://me:hunter2@ca.a.example/directory".into();
        }),
        ("HTTPREQ_PASSWORD", |settings| {
            settings.dns.httpreq_endpoint = some("https://dns.a.example");
            settings.dns.httpreq_username = some("me");
        }),
    ] {
        let message = challenge(change).map(|_| ()).expect_err(name);
        assert!(message.contains(&format!("\n  {name}: ")), "{name} in {message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
}
