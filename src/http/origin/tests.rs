use proptest::prelude::*;

use super::*;
use crate::config::Settings;

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

fn gate(change: impl FnOnce(&mut Settings)) -> Gate {
    let mut settings = Settings { cert_dir: Some("certs".into()), ..Settings::default() };
    change(&mut settings);
    Gate::new(&Config::try_from(settings).expect("valid"), Counter::default())
}

fn allowing(origins: &str) -> Gate {
    gate(|settings| settings.allowed_origins = Some(origins.to_owned()))
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &str)| {
        (header::HeaderName::from_static(name), value.parse().expect("a value"))
    };
    pairs.iter().map(pair).collect()
}

fn passes(gate: &Gate, origin: &str, host: &str) -> bool {
    gate.check(PEER, &headers(&[("origin", origin), ("host", host)])).is_ok()
}

#[test]
fn our_own_pages_pass_and_others_only_where_they_are_named() {
    let table: &[(&str, &str, &str, bool)] = &[
        // Our own, whatever the scheme before a proxy.
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
        // Those that have no name.
        ("", "null", "rt.example", false),
        ("*", "null", "rt.example", false),
        ("*", "", "rt.example", false),
        ("*", "https://rt.example/page", "other", false),
        ("*", "rt.example", "other", false),
        // The list.
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
fn what_comes_from_no_page_passes() {
    assert!(gate(|_| ()).check(PEER, &headers(&[("host", "rt.example")])).is_ok());
    assert!(gate(|_| ()).check(PEER, &HeaderMap::new()).is_ok());
}

#[test]
fn two_origins_have_to_be_right_both() {
    let headers = headers(&[
        ("host", "rt.example"),
        ("origin", "https://rt.example"),
        ("origin", "https://evil.example"),
    ]);
    assert!(gate(|_| ()).check(PEER, &headers).is_err());
}

#[test]
fn the_hosts_of_rthost_are_ours_also_where_a_proxy_changes_the_host() {
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
        // We serve HTTPS ourselves: a plain page of our name is not ours.
        ("http://rt.example", "rt.example", false),
        ("http://rt.example", "rt.example:80", false),
        ("https://rt.example:8443", "rt.example:8443", true),
    ] {
        assert_eq!(passes(&gate, origin, host), expected, "{origin} at {host}");
    }
}

#[test]
fn the_hosts_of_rthost_are_at_the_port_that_it_names() {
    let gate = gate(|settings| {
        settings.rthost = Some("rt.example:8443".into());
        (settings.tls_cert, settings.tls_key) = (Some("cert".into()), Some("key".into()));
    });
    assert!(passes(&gate, "https://rt.example:8443", "inner"));
    assert!(!passes(&gate, "https://rt.example", "inner"));
}

#[test]
fn only_a_trusted_proxy_says_which_host_was_asked() {
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
fn an_origin_that_was_logged_is_remembered_until_many_others_were() {
    let told = Told::default();
    let origin = |number| format!("https://{number}.example");
    (0..MAX_TOLD).for_each(|number| told.add(origin(number)));
    assert!(told.holds(&origin(0)) && !told.holds(&origin(MAX_TOLD)));
    told.add(origin(MAX_TOLD));
    assert!(!told.holds(&origin(0)) && told.holds(&origin(1)) && told.holds(&origin(MAX_TOLD)));
    assert_eq!(told.lock().len(), MAX_TOLD);
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_comes_after_many_others_is_logged_within_a_minute() {
    let gate = allowing("https://a.example");
    let refuse = |origin: &str| gate.refuse(&origin.parse().expect("a value"));
    (0..150).for_each(|number| drop(refuse(&format!("https://{number}.example"))));
    refuse("https://real.example");
    assert_eq!(gate.told.lock().len(), LINES as usize);
    assert!(!gate.told.holds("https://real.example"));
    tokio::time::sleep(Duration::from_secs(60)).await;
    tokio::task::yield_now().await;
    assert!(gate.told.holds("https://real.example"));
}

#[test]
fn a_refusal_is_logged_with_the_setting_to_paste() {
    let gate = allowing("https://a.example,https://*.b.example");
    let origin = Origin::parse("https://app.example").expect("an origin");
    let line = "ALLOWED_ORIGINS=https://a.example,https://*.b.example,https://app.example";
    assert_eq!(gate.line(&origin), line);
}

proptest! {
    #[test]
    fn no_stranger_passes(origin in "[ -~]{0,60}", host in "[ -~]{0,40}") {
        prop_assume!(!origin.to_ascii_lowercase().contains("rt.example"));
        let closed = gate(|settings| settings.trusted_proxies = Some("192.0.2.0/24".into()));
        prop_assert!(!passes(&closed, &origin, "rt.example"));
        // Any bytes are read, and what passes is an origin.
        if passes(&allowing("*"), &origin, &host) {
            prop_assert!(Origin::parse(&origin).is_some());
        }
    }

    #[test]
    fn an_origin_reads_as_it_is_shown(host in "[a-z][a-z0-9]{0,9}(\\.[a-z][a-z0-9]{0,9}){0,3}", port: Option<u16>) {
        let shown = Origin { scheme: "wss".into(), host, port: port.filter(|&port| port != 443) };
        prop_assert_eq!(Origin::parse(&shown.to_string()), Some(shown));
    }
}
