//! A CA that is down, slow or has lost its accounts, and a store that cannot be read: what the
//! server serves, and which requests it sends.

use std::time::{Duration, SystemTime};

use crate::{
    certified::{Killed, certificate, site, until_replaced, until_served, until_told},
    pebble::{Behaviour, Ca, NEW_ORDER, until},
    support::{TestServer, request},
};

async fn end(site: &TestServer) {
    site.stop();
    site.until("it has stopped", async || site.is_over()).await;
}

/// Makes the stored certificate due for renewal.
fn let_time_pass(ca: &Ca) {
    ca.rewrite("renewal-", |renewal| renewal["at"] = 0.into());
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn sighup_retries_a_ca_that_had_refused_connections() {
    let mut ca = Ca::start("refused", Behaviour::default()).await;
    ca.hang_up();
    let process = Killed::start(&ca, &[]);
    until("an attempt", async || ca.stored("attempts-") == 2).await;
    assert!(ca.read("attempts-").contains("\"network\""), "{}", ca.read("attempts-"));
    assert!(ca.connect().await.is_err(), "TLS is refused");
    ca.pick_up().await;
    process.hang_up();
    until("a certificate", async || ca.connect().await.is_ok()).await;
    assert_eq!(ca.orders(), 1);
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn a_failed_renewal_leaves_the_certificate_in_use() {
    let mut ca = Ca::start("away", Behaviour::default()).await;
    let first = site(&ca, |_| ()).await;
    let serial = until_served(&first).await;
    first.until("it is stored", async || ca.stored("renewal-") == 1).await;
    end(&first).await;
    let_time_pass(&ca);
    ca.hang_up();
    let second = site(&ca, |_| ()).await;
    let told = until_told(&second, "(network)").await;
    assert!(told.contains("no answer from"), "{told}");
    assert_eq!(certificate(&second).await["serial"], *serial);
    assert_eq!(ca.serial().await, serial);
    assert_eq!(second.get("/readyz").await.0, 200);
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn a_slow_ca_does_not_delay_anything_else() {
    let ca = Ca::start("slow", Behaviour::default()).await;
    ca.hold(true);
    let site = site(&ca, |_| ()).await;
    site.until("it is asked", async || ca.requests() == 1).await;
    assert_eq!(site.get("/readyz").await.0, 200);
    assert_eq!(request(site.addr, "GET", "/", "").await.0, 308);
    assert!(ca.connect().await.is_err(), "TLS is refused");
    ca.hold(false);
    until_served(&site).await;
    assert_eq!(ca.orders(), 1);
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn an_account_that_the_ca_has_lost_is_registered_again_once() {
    let mut ca = Ca::start("forgotten", Behaviour::default()).await;
    let first = site(&ca, |_| ()).await;
    let serial = until_served(&first).await;
    first.until("it is stored", async || ca.stored("renewal-") == 1).await;
    end(&first).await;
    assert_eq!((ca.registrations(), ca.orders()), (1, 1));
    let_time_pass(&ca);
    ca.forget().await;
    let second = site(&ca, |_| ()).await;
    until_replaced(&second, &serial).await;
    // The order that the CA rejected counts too, and is sent again.
    assert_eq!((ca.registrations(), ca.orders()), (2, 3));
    assert_eq!(ca.stored("account-"), 2);
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn rejected_nonces_are_replaced() {
    let behaviour = Behaviour { refused_nonces: 20, ..Behaviour::default() };
    let ca = Ca::start("nonces", behaviour).await;
    let process = Killed::start(&ca, &[]);
    until("a certificate", async || {
        // Three rejected nonces in a row, as about one order in ten meets, end an attempt.
        if ca.stored("attempts-") == 2 && ca.read("attempts-").contains("nonce") {
            process.hang_up();
        }
        ca.connect().await.is_ok()
    })
    .await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn a_store_that_fails_with_eio_is_not_taken_for_an_empty_one() {
    let ca = Ca::start("eio", Behaviour::default()).await;
    let first = site(&ca, |_| ()).await;
    let serial = until_served(&first).await;
    first.until("it is stored", async || ca.stored("renewal-") == 1).await;
    end(&first).await;
    let asked = ca.requests();
    // Address 0 is mapped in no process: reading it is EIO, for root too.
    let newest = ca.path("cert-");
    let broken = newest.to_string_lossy().replace("-00000001", "-00000002");
    std::os::unix::fs::symlink("/proc/self/mem", broken).expect("linked");
    let second = site(&ca, |_| ()).await;
    assert_eq!(until_served(&second).await, serial);
    end(&second).await;
    std::fs::remove_file(newest).expect("was there");
    let third = site(&ca, |_| ()).await;
    until_told(&third, "Input/output error").await;
    assert_eq!((ca.requests(), ca.orders()), (asked, 1));
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn retry_after_of_an_unavailable_ca_is_respected_after_a_restart() {
    let ca = Ca::start("named", Behaviour::default()).await;
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(86_400));
    ca.answer_at(NEW_ORDER, 503, vec![("retry-after", date)], "");
    let first = site(&ca, |_| ()).await;
    let told = until_told(&first, "(network)").await;
    end(&first).await;
    let asked = ca.requests();
    ca.recover();
    let second = site(&ca, |_| ()).await;
    assert_eq!(until_told(&second, "(network)").await, told);
    assert_eq!(ca.requests(), asked);
}
