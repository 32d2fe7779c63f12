use proptest::prelude::*;

use super::*;
use crate::config::Settings;

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

fn gate(change: impl FnOnce(&mut Settings)) -> Gate {
    let mut settings = Settings { cert_dir: Some("certs".into()), ..Settings::default() };
    change(&mut settings);
    Gate::new(&Config::try_from(settings).expect("valid settings"), Counter::default())
}

fn allowing(origins: &str) -> Gate {
    gate(|settings| settings.allowed_origins = Some(origins.to_owned()))
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &str)| {
        (header::HeaderName::from_static(name), value.parse().expect("a valid value"))
    };
    pairs.iter().map(pair).collect()
}

fn passes(gate: &Gate, origin: &str, host: &str) -> bool {
    gate.check(PEER, &headers(&[("origin", origin), ("host", host)])).is_ok()
}

#[test]
fn pages_of_this_server_pass_and_others_only_if_allowed() {
    let table: &[(&str, &str, &str, bool)] = &[
        // The server's own pages; a proxy may have changed the scheme.
        ("", "http://localhost:8080", "localhost:8080", true),
        ("", "https://rt.example", "rt.example", true),
        ("", "https://rt.example", "RT.Example:443", true),
        ("", "http://rt.example", "rt.example:80", true),
        ("", "https://rt.example:8443", "rt.example:8443", true),
        ("", "http://[::1]:8080", "[::1]:8080", true),
        // Another port, host or domain is another origin.
        ("", "http://localhost:3000", "localhost:8080", false),
        ("", "http://rt.example", "rt.example:443", false),
        ("", "https://rt.example:8443", "rt.example", false),
        ("", "https://evil.example", "rt.example", false),
        ("", "https://rt.example.evil", "rt.example", false),
        ("", "https://xrt.example", "rt.example", false),
        ("", "ftp://rt.example", "rt.example", false),
        // Values that are not origins.
        ("", "null", "rt.example", false),
        ("*", "null", "rt.example", false),
        ("*", "", "rt.example", false),
        ("*", "https://rt.example/page", "other", false),
        ("*", "rt.example", "other", false),
        // Patterns of ALLOWED_ORIGINS.
        ("https://app.example", "https://app.example", "rt.example", true),
        ("https://app.example", "http://app.example", "rt.example", false),
        ("https://app.example", "https://app.example:444", "rt.example", false),
        ("https://a.example,https://app.example", "https://app.example", "rt.example", true),
        ("https://*.example.com", "https://app.example.com", "rt.example", true),
        ("https://*.example.com", "https://a.b.example.com", "rt.example", true),
        ("https://*.example.com", "https://example.com", "rt.example", false),
        ("https://*.example.com", "https://.example.com", "rt.example", false),
        ("https://*.example.com", "https://evilexample.com", "rt.example", false),
        ("https://*.example.com", "http://app.example.com", "rt.example", false),
        ("https://*.example.com", "https://app.example.com:444", "rt.example", false),
        ("capacitor://localhost", "capacitor://localhost", "rt.example", true),
        ("*", "https://anything.example:1", "rt.example", true),
    ];
    for (allowed, origin, host, expected) in table {
        let found = passes(&allowing(allowed), origin, host);
        assert_eq!(found, *expected, "{allowed:?}: {origin} at {host}");
    }
}

#[test]
fn requests_without_an_origin_pass() {
    assert!(gate(|_| ()).check(PEER, &headers(&[("host", "rt.example")])).is_ok());
    assert!(gate(|_| ()).check(PEER, &HeaderMap::new()).is_ok());
}

#[test]
fn all_of_several_origins_must_be_allowed() {
    let headers = headers(&[
        ("host", "rt.example"),
        ("origin", "https://rt.example"),
        ("origin", "https://evil.example"),
    ]);
    assert!(gate(|_| ()).check(PEER, &headers).is_err());
}

#[test]
fn pages_of_rthost_pass_even_if_a_proxy_changes_the_host() {
    let gate = gate(|settings| {
        settings.rthost = Some("rt.example,*.wild.example".into());
        (settings.tls_cert, settings.tls_key) = (Some("cert".into()), Some("key".into()));
    });
    for (origin, host, expected) in [
        ("https://rt.example", "inner", true),
        ("https://a.wild.example", "inner", true),
        ("https://a.b.wild.example", "inner", false),
        ("https://wild.example", "inner", false),
        ("https://rt.example:3000", "inner", false),
        // This server serves HTTPS itself: a page of the same name over HTTP is not its own.
        ("http://rt.example", "rt.example", false),
        ("http://rt.example", "rt.example:80", false),
        ("https://rt.example:8443", "rt.example:8443", true),
    ] {
        assert_eq!(passes(&gate, origin, host), expected, "{origin} at {host}");
    }
}

#[test]
fn pages_of_rthost_pass_only_at_the_port_that_it_names() {
    let gate = gate(|settings| {
        settings.rthost = Some("rt.example:8443".into());
        (settings.tls_cert, settings.tls_key) = (Some("cert".into()), Some("key".into()));
    });
    assert!(passes(&gate, "https://rt.example:8443", "inner"));
    assert!(!passes(&gate, "https://rt.example", "inner"));
}

#[test]
fn only_a_trusted_proxy_can_forward_the_requested_host() {
    let forwarded = headers(&[
        ("origin", "https://public.example"),
        ("host", "inner:8080"),
        ("x-forwarded-host", "public.example"),
    ]);
    assert!(gate(|_| ()).check(PEER, &forwarded).is_err());
    let trusting = gate(|settings| settings.trusted_proxies = Some("192.0.2.0/24".into()));
    assert!(trusting.check(PEER, &forwarded).is_ok());
    assert!(trusting.check([198, 51, 100, 1].into(), &forwarded).is_err());
}

#[test]
fn a_logged_origin_is_forgotten_after_a_hundred_others() {
    let told = Told::default();
    let origin = |number| format!("https://{number}.example");
    (0..MAX_TOLD).for_each(|number| told.add(origin(number)));
    assert!(told.holds(&origin(0)) && !told.holds(&origin(MAX_TOLD)));
    told.add(origin(MAX_TOLD));
    assert!(!told.holds(&origin(0)) && told.holds(&origin(1)) && told.holds(&origin(MAX_TOLD)));
    assert_eq!(told.lock().len(), MAX_TOLD);
}

#[tokio::test(start_paused = true)]
async fn an_origin_beyond_the_log_limit_is_logged_within_a_minute() {
    let gate = allowing("https://a.example");
    let refuse = |origin: &str| gate.refuse(&origin.parse().expect("a valid value"));
    (0..150).for_each(|number| drop(refuse(&format!("https://{number}.example"))));
    refuse("https://real.example");
    assert_eq!(gate.told.lock().len(), LINES as usize);
    assert!(!gate.told.holds("https://real.example"));
    tokio::time::sleep(Duration::from_secs(60)).await;
    tokio::task::yield_now().await;
    assert!(gate.told.holds("https://real.example"));
}

#[test]
fn the_log_of_a_refusal_has_the_setting_to_paste() {
    let gate = allowing("https://a.example,https://*.b.example");
    let origin = Origin::parse("https://app.example").expect("a valid origin");
    let line = "ALLOWED_ORIGINS=https://a.example,https://*.b.example,https://app.example";
    assert_eq!(gate.line(&origin), line);
}

proptest! {
    #[test]
    fn no_unknown_origin_passes(origin in "[ -~]{0,60}", host in "[ -~]{0,40}") {
        prop_assume!(!origin.to_ascii_lowercase().contains("rt.example"));
        let closed = gate(|settings| settings.trusted_proxies = Some("192.0.2.0/24".into()));
        prop_assert!(!passes(&closed, &origin, "rt.example"));
        // No value makes the check panic, and only real origins pass `*`.
        if passes(&allowing("*"), &origin, &host) {
            prop_assert!(Origin::parse(&origin).is_some());
        }
    }

    #[test]
    fn an_origin_survives_a_round_trip(host in "[a-z][a-z0-9]{0,9}(\\.[a-z][a-z0-9]{0,9}){0,3}", port: Option<u16>) {
        let shown = Origin { scheme: "wss".into(), host, port: port.filter(|&port| port != 443) };
        prop_assert_eq!(Origin::parse(&shown.to_string()), Some(shown));
    }
}
