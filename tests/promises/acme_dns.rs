//! Certificates by DNS-01: each provider, wrong credentials, and the removal of TXT records.

use std::{os::unix::fs::PermissionsExt, path::PathBuf};

use roomcast::config::Settings;

use crate::{
    certified::{Killed, certificate, site, until_served, until_told},
    dns_provider::{EMAIL, KEY, Provider, TOKEN},
    pebble::{Behaviour, Ca, HOST, until},
};

/// Orders a certificate by DNS-01 with a provider's settings, and checks what all providers have in
/// common: a valid chain, from one order.
async fn ordered(ca: &Ca, change: impl FnOnce(&mut Settings)) {
    let site = site(ca, |settings| {
        settings.dns.acme_dns_resolvers = Some(ca.dns.to_string());
        change(settings);
    })
    .await;
    until_served(&site).await;
    ca.connect().await.expect("the chain leads to Pebble's root");
    assert_eq!(ca.orders(), 1);
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn cloudflare_with_a_token_gets_a_certificate() {
    let ca = Ca::start("token", Behaviour::default()).await;
    let provider = Provider::start(ca.names).await;
    ordered(&ca, |settings| {
        settings.dns.cloudflare_api_url = provider.cloudflare();
        settings.dns.cloudflare_dns_api_token = Some(TOKEN.into());
        // The token takes precedence over an e-mail address.
        settings.dns.cloudflare_email = Some("somebody@example.com".into());
    })
    .await;
    assert_eq!(provider.records(), (2, 0), "one record per host, all removed");
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn a_wildcard_and_its_parent_share_one_record_name() {
    let ca = Ca::start("wildcard", Behaviour::default()).await;
    let provider = Provider::start(ca.names).await;
    ordered(&ca, |settings| {
        settings.rthost = Some(format!("{HOST},*.{HOST}"));
        settings.dns.cloudflare_api_url = provider.cloudflare();
        settings.dns.cloudflare_email = Some(EMAIL.into());
        settings.dns.cloudflare_api_key = Some(KEY.into());
    })
    .await;
    assert_eq!(provider.records(), (2, 0));
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn httpreq_gets_a_certificate() {
    let ca = Ca::start("httpreq", Behaviour::default()).await;
    let provider = Provider::start(ca.names).await;
    ordered(&ca, |settings| {
        settings.dns.httpreq_endpoint = Some(provider.httpreq());
        settings.dns.httpreq_username = Some("me".into());
        settings.dns.httpreq_password = Some("secret".into());
    })
    .await;
    assert_eq!(provider.records(), (2, 0));
}

/// A script for `EXEC_PATH` that publishes records at Pebble's name server and logs its arguments.
/// Returns the paths of the script and of its log.
fn program(ca: &Ca) -> (PathBuf, PathBuf) {
    let (path, calls) = (ca.folder.join("dns.sh"), ca.folder.join("calls"));
    let script = format!(
        r#"#!/bin/bash
set -eu
echo "$*" >> {calls}
case $1 in
  present) path=/set-txt ;;
  cleanup) path=/clear-txt ;;
esac
body="{{\"host\": \"$2\", \"value\": \"$3\"}}"
exec 3<>/dev/tcp/{ip}/{port}
printf 'POST %s HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s' "$path" "${{#body}}" "$body" >&3
grep -q ' 200 ' <&3
"#,
        calls = calls.display(),
        ip = ca.names.ip(),
        port = ca.names.port(),
    );
    std::fs::write(&path, script).expect("written");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("executable");
    (path, calls)
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn exec_path_gets_a_certificate() {
    let ca = Ca::start("exec", Behaviour::default()).await;
    let (path, calls) = program(&ca);
    ordered(&ca, |settings| settings.dns.exec_path = Some(path.to_string_lossy().into())).await;
    let calls = std::fs::read_to_string(calls).expect("it was called");
    let record = |call: &str| call.split_once(' ').map(|(_, record)| record.to_owned());
    let of = |action: &str| -> Vec<_> {
        calls.lines().filter(|call| call.starts_with(action)).map(record).collect()
    };
    assert_eq!(of("present").len(), 2, "{calls}");
    assert_eq!(of("present"), of("cleanup"), "{calls}");
    assert!(calls.contains(&format!("_acme-challenge.{HOST}. ")), "{calls}");
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn the_error_output_of_a_failing_program_is_reported() {
    let ca = Ca::start("failing", Behaviour::default()).await;
    let (path, calls) = program(&ca);
    let script =
        format!("#!/bin/sh\necho $* >> {}\necho no such zone >&2\nexit 3\n", calls.display());
    std::fs::write(&path, script).expect("written");
    let site = site(&ca, |settings| {
        settings.dns.exec_path = Some(path.to_string_lossy().into());
    })
    .await;
    let told = until_told(&site, "(validation)").await;
    assert!(told.contains("EXEC_PATH") && told.contains("no such zone"), "{told}");
    let calls = std::fs::read_to_string(calls).expect("it was called");
    assert!(calls.contains("cleanup"), "a record that may be half made is removed: {calls}");
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn a_wrong_token_stops_the_order_before_the_ca_and_can_be_corrected() {
    let ca = Ca::start("wrong-token", Behaviour::default()).await;
    let provider = Provider::start(ca.names).await;
    let file = ca.folder.join("token");
    std::fs::write(&file, "a-token-that-was-revoked\n").expect("written");
    let (dns, url, path) = (ca.dns.to_string(), provider.cloudflare(), file.to_string_lossy());
    let variables = [
        ("ACME_DNS_RESOLVERS", dns.as_str()),
        ("CLOUDFLARE_API_URL", &url),
        ("CF_DNS_API_TOKEN_FILE", &path),
    ];
    let process = Killed::start(&ca, &variables);
    until("an attempt", async || ca.stored("attempts-") == 2).await;
    let stored = ca.read("attempts-");
    assert!(
        stored.contains("\"credentials\"") && stored.contains("CF_DNS_API_TOKEN_FILE: "),
        "{stored}"
    );
    assert_eq!((ca.requests(), provider.calls()), (0, 1));

    std::fs::write(&file, TOKEN).expect("written");
    process.hang_up();
    until("a certificate", async || ca.connect().await.is_ok()).await;
    assert_eq!((ca.orders(), provider.records()), (1, (2, 0)));
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn a_token_set_as_the_api_key_is_recognized() {
    let ca = Ca::start("misplaced", Behaviour::default()).await;
    let provider = Provider::start(ca.names).await;
    let site = site(&ca, |settings| {
        settings.dns.cloudflare_api_url = provider.cloudflare();
        settings.dns.cloudflare_email = Some(EMAIL.into());
        settings.dns.cloudflare_api_key = Some(TOKEN.into());
    })
    .await;
    let told = until_told(&site, "(credentials)").await;
    assert!(told.contains("CLOUDFLARE_API_KEY: it holds an API token"), "{told}");
    assert!(!told.contains(TOKEN), "{told}");
    assert_eq!((ca.requests(), provider.calls()), (0, 1));
    let metric = "roomcast_certificate_attempts_total{result=\"credentials\"}";
    assert_eq!(site.metric(metric).await, 1);
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn a_record_that_stays_invisible_is_not_tried_again_after_a_restart() {
    let ca = Ca::start("unpublished", Behaviour::default()).await;
    let provider = Provider::start(ca.names).await;
    provider.mute();
    let settings = |settings: &mut Settings| {
        settings.dns.acme_dns_resolvers = Some(ca.dns.to_string());
        settings.dns.acme_dns_wait = "1s".into();
        settings.dns.cloudflare_api_url = provider.cloudflare();
        settings.dns.cloudflare_dns_api_token = Some(TOKEN.into());
    };
    let first = site(&ca, settings).await;
    let told = until_told(&first, "(validation)").await;
    assert!(told.contains(&format!("the TXT record _acme-challenge.{HOST} is not at")), "{told}");
    assert_eq!(provider.records(), (2, 0), "both records are removed after the failure");
    first.stop();
    first.until("it has stopped", async || first.is_over()).await;
    let (asked, called) = (ca.requests(), provider.calls());
    let second = site(&ca, settings).await;
    assert_eq!(until_told(&second, "(validation)").await, told);
    assert_eq!((ca.requests(), ca.orders(), provider.calls()), (asked, 1, called));
    assert_eq!(certificate(&second).await["names"], serde_json::json!([]));
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn a_server_stopped_during_an_order_removes_its_records() {
    let ca = Ca::start("stopped", Behaviour::default()).await;
    let provider = Provider::start(ca.names).await;
    provider.mute();
    let site = site(&ca, |settings| {
        settings.dns.acme_dns_resolvers = Some(ca.dns.to_string());
        settings.dns.cloudflare_api_url = provider.cloudflare();
        settings.dns.cloudflare_dns_api_token = Some(TOKEN.into());
    })
    .await;
    site.until("a record", async || provider.records().0 == 2).await;
    site.stop();
    site.until("it has stopped", async || site.is_over()).await;
    assert_eq!(provider.records(), (2, 0));
}

#[tokio::test]
async fn doctor_checks_the_credentials_of_the_provider() {
    // `doctor` reads zones only and publishes no record, so no name server is needed.
    let provider = Provider::start(([127, 0, 0, 1], 9).into()).await;
    for (token, told) in [
        (TOKEN, "the provider shows example.com"),
        ("wrong", "CLOUDFLARE_DNS_API_TOKEN: Cloudflare answered 403: Invalid access token (9109)"),
    ] {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_roomcast"));
        command.arg("doctor").env_clear().envs([
            ("RTHOST", format!("{HOST},*.{HOST}")),
            ("CERT_DIR", std::env::temp_dir().to_string_lossy().into_owned()),
            ("ACME_CA", "https://127.0.0.1:9/dir".into()),
            ("CLOUDFLARE_API_URL", provider.cloudflare()),
            ("CLOUDFLARE_DNS_API_TOKEN", token.into()),
        ]);
        let output = crate::support::within("the doctor", command.output()).await.expect("runs");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains(told), "{said}");
    }
    assert_eq!(provider.records(), (0, 0));
}
