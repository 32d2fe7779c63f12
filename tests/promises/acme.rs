//! Certificates by ACME, ordered from a real CA: Pebble, from the Debian package `pebble`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use roomcast::config::Settings;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    certified::{Killed, certificate, site, until_served, until_told},
    pebble::{Behaviour, Ca, HOST, NEW_ORDER, until},
    support::{Client, request},
};

async fn first_certificate(challenge: &str) {
    let ca = Ca::start(challenge, Behaviour::default()).await;
    let site = site(&ca, |settings| settings.acme_challenge = challenge.into()).await;
    until_served(&site).await;
    let mut stream = ca.connect().await.expect("the chain leads to Pebble's root");
    let head = format!("GET /livez HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && !answer.contains("strict-transport"),
        "{answer}"
    );
    let names = certificate(&site).await["names"].clone();
    // The names are in the order that the CA chose.
    assert!(names == json!([HOST, "www.example.com"]) || names == json!(["www.example.com", HOST]));
    assert_eq!(ca.orders(), 1);
    assert_eq!(site.metric("roomcast_certificate_attempts_total{result=\"done\"}").await, 1);
    let path = "/.well-known/acme-challenge/anything";
    assert_eq!(request(site.addr, "GET", path, "").await.0, 404);
    assert_eq!(request(site.addr, "GET", "/", "").await.0, 308);
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn the_first_certificate_comes_by_tls_alpn_01() {
    first_certificate("tls-alpn-01").await;
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn the_first_certificate_comes_by_http_01() {
    first_certificate("http-01").await;
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn a_killed_server_restarts_with_its_stored_certificate_and_sends_the_ca_no_request() {
    let ca = Ca::start("killed", Behaviour::default()).await;
    let mut process = Killed::start(&ca, &[]);
    until("a certificate", async || ca.connect().await.is_ok()).await;
    until("all of it is stored", async || ca.stored("renewal-") == 1).await;
    assert_eq!(ca.stored("cert-"), 1);
    let serial = ca.serial().await;
    process.kill();

    let asked = ca.requests();
    let site = site(&ca, |_| ()).await;
    assert_eq!(until_served(&site).await, serial);
    assert_eq!(ca.serial().await, serial);
    assert_eq!((ca.requests(), ca.orders()), (asked, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs pebble: tests/run"]
async fn renewals_do_not_disturb_connected_clients() {
    let ca = Ca::start("renewal", Behaviour { validity: 30, ..Behaviour::default() }).await;
    let site = site(&ca, |_| ()).await;
    let mut serials = vec![until_served(&site).await];
    let mut client = Client::upgrade(ca.connect().await.expect("TLS")).await;
    client.enter().await;
    client.join("device01").await;
    // Read all the time: a client that leaves heartbeats unanswered for 45 s is disconnected.
    let (told, mut arrived) = tokio::sync::mpsc::unbounded_channel();
    let viewer = tokio::spawn(async move { while told.send(client.message().await).is_ok() {} });
    let mut published = 0;
    while serials.len() < 3 {
        let last = serials[serials.len() - 1].clone();
        site.until("a newer certificate", async || {
            let handshakes = futures_util::future::join_all((0..50).map(|_| ca.connect()));
            assert!(handshakes.await.iter().all(Result::is_ok), "handshakes succeed throughout");
            published += 1;
            site.publish("device01", published.to_string()).await;
            let message = crate::support::within("the message", arrived.recv()).await;
            assert_eq!(message, Some(published.to_string()));
            certificate(&site).await["serial"] != *last
        })
        .await;
        serials.push(until_served(&site).await);
    }
    drop(arrived);
    site.publish("device01", "the end").await;
    viewer.await.expect("nothing but messages");
    assert_eq!(ca.orders(), 3);
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn without_a_ca_everything_else_works_and_the_status_gives_the_reason() {
    let ca = Ca::start("down", Behaviour::default()).await;
    ca.answer(503, "down for today");
    let site = site(&ca, |_| ()).await;
    let told = until_told(&site, "the CA answered 503").await;
    assert!(told.contains("(network)") && told.contains("the next attempt is at"), "{told}");
    assert!(ca.connect().await.is_err(), "TLS is refused");
    assert_eq!(request(site.addr, "GET", "/", "").await.0, 308);
    assert_eq!(site.get("/readyz").await.0, 200);
    assert_eq!(ca.orders(), 0);
    // The back-off is longer than the deadline of one wait, so wait twice.
    ca.recover();
    for _ in 0..2 {
        let served = async { until_served(&site).await };
        if tokio::time::timeout(crate::support::DEADLINE * 9 / 10, served).await.is_ok() {
            break;
        }
    }
    until_served(&site).await;
    assert_eq!(ca.orders(), 1);
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn a_failed_validation_is_not_repeated_after_a_restart() {
    let ca = Ca::start("unseen", Behaviour::default()).await;
    // The CA looks for the HTTP-01 challenge at a port where nothing listens.
    let blind = |settings: &mut Settings| {
        settings.acme_challenge = "http-01".into();
        settings.http_addr = "127.0.0.1:0".into();
    };
    let first = site(&ca, blind).await;
    let told = until_told(&first, "(validation)").await;
    assert!(told.contains("could not validate"), "{told}");
    first.stop();
    first.until("it has stopped", async || first.is_over()).await;
    let asked = ca.requests();
    let second = site(&ca, |settings| settings.acme_challenge = "http-01".into()).await;
    assert_eq!(until_told(&second, "(validation)").await, told);
    assert_eq!((ca.requests(), ca.orders()), (asked, 1));
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn a_rate_limit_of_the_ca_is_respected_after_a_restart() {
    let ca = Ca::start("limited", Behaviour::default()).await;
    // The answer names the time in its header only.
    ca.answer_at(NEW_ORDER, 429, vec![("retry-after", "86400".into())], "");
    let a_day = SystemTime::now() + Duration::from_secs(86_400);
    let first = site(&ca, |_| ()).await;
    let told = until_told(&first, "(rate_limited)").await;
    let next = first.metric("roomcast_certificate_next_attempt_seconds{source=\"acme\"}").await;
    assert!(UNIX_EPOCH + Duration::from_secs(next + 1) > a_day, "{told}");
    first.stop();
    first.until("it has stopped", async || first.is_over()).await;
    let asked = ca.requests();
    ca.recover();
    let second = site(&ca, |_| ()).await;
    assert_eq!(until_told(&second, "(rate_limited)").await, told);
    assert_eq!(ca.requests(), asked);
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn a_damaged_store_serves_its_last_good_certificate_and_orders_nothing() {
    let ca = Ca::start("store", Behaviour::default()).await;
    let first = site(&ca, |_| ()).await;
    let serial = until_served(&first).await;
    first.until("all of it is stored", async || ca.stored("renewal-") == 1).await;
    first.stop();
    first.until("it has stopped", async || first.is_over()).await;
    let (asked, stored) = (ca.requests(), ca.path("cert-"));

    // A newer record that is damaged, and one that cannot be read.
    let newer =
        |number: u8| stored.to_string_lossy().replace("-00000001", &format!("-0000000{number}"));
    std::fs::write(newer(2), "rotten\n# roomcast: whole\n").expect("written");
    std::fs::create_dir(newer(3)).expect("made");
    let second = site(&ca, |_| ()).await;
    assert_eq!(until_served(&second).await, serial);
    second.stop();
    second.until("it has stopped", async || second.is_over()).await;

    // With only those two left, there is no certificate and no order.
    std::fs::remove_file(&stored).expect("was there");
    let third = site(&ca, |_| ()).await;
    until_told(&third, "CERT_DIR: ").await;
    assert_eq!((ca.requests(), ca.orders()), (asked, 1));
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn sighup_retries_at_once() {
    let ca = Ca::start("again", Behaviour::default()).await;
    ca.answer(403, "not today");
    let process = Killed::start(&ca, &[]);
    // One record when the attempt begins, and a second one with its result.
    until("an attempt", async || ca.stored("attempts-") == 2).await;
    ca.recover();
    process.hang_up();
    until("a certificate", async || ca.connect().await.is_ok()).await;
    assert_eq!(ca.orders(), 1);
}

#[cfg(target_os = "linux")]
#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn nothing_is_ordered_if_cert_dir_is_not_writable() {
    let ca = Ca::start("forgetful", Behaviour::default()).await;
    // A folder that can be read, and in which not even root can create files.
    let site = site(&ca, |settings| settings.cert_dir = Some("/proc/self/task".into())).await;
    until_told(&site, "CERT_DIR: cannot write").await;
    assert!(ca.connect().await.is_err(), "TLS is refused");
    assert_eq!(site.get("/readyz").await.0, 200);
    assert_eq!(ca.requests(), 0);
}
