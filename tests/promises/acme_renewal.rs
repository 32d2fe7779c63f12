//! The time of a renewal: as the CA suggests (ACME renewal information), across restarts too.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::{
    certified::{certificate, site, until_replaced, until_served},
    pebble::{Behaviour, Ca},
    support::TestServer,
};

const DAY: u64 = 24 * 3600;

/// The time of the next attempt in seconds since the Unix epoch, once `/status` has it.
async fn next_attempt(site: &TestServer) -> Option<u64> {
    let told = certificate(site).await["next_attempt"].as_str().map(str::to_owned)?;
    let at = humantime::parse_rfc3339(&told).expect("a time");
    Some(at.duration_since(UNIX_EPOCH).expect("after 1970").as_secs())
}

async fn end(site: &TestServer) {
    site.stop();
    site.until("it has stopped", async || site.is_over()).await;
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn the_renewal_window_of_the_ca_is_used_and_refreshed() {
    let ca = Ca::start("window", Behaviour::default()).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let window = now + 10 * DAY..=now + 11 * DAY;
    ca.suggest(*window.start(), *window.end());
    let first = site(&ca, |_| ()).await;
    let serial = until_served(&first).await;
    first.until("a time is chosen", async || ca.stored("renewal-") == 1).await;
    let chosen = async || next_attempt(&first).await.is_some_and(|at| window.contains(&at));
    first.until("the status has it", chosen).await;
    let next = next_attempt(&first).await;
    end(&first).await;

    // The suggestion is less than an hour old, so the restarted server does not ask the CA.
    let asked = ca.requests();
    let second = site(&ca, |_| ()).await;
    assert_eq!(until_served(&second).await, serial);
    second.until("the status has it", async || next_attempt(&second).await == next).await;
    assert_eq!(ca.requests(), asked);
    end(&second).await;

    // An hour later, the CA suggests to replace the certificate at once.
    ca.rewrite("renewal-", |renewal| renewal["ask_at"] = 0.into());
    ca.suggest(now - 2 * DAY, now - DAY);
    let third = site(&ca, |_| ()).await;
    until_replaced(&third, &serial).await;
    let (asked, replaced) = ca.renewals();
    assert_eq!(replaced, [asked[0].clone()], "of {asked:?}");
    assert_eq!(asked[..2], [asked[0].clone(), asked[0].clone()]);
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn a_ca_that_rejects_replaces_gets_an_order_without_it() {
    let ca = Ca::start("replaced", Behaviour::default()).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    ca.suggest(now + DAY, now + 2 * DAY);
    let first = site(&ca, |_| ()).await;
    let serial = until_served(&first).await;
    first.until("a time is chosen", async || ca.stored("renewal-") == 1).await;
    end(&first).await;
    ca.rewrite("renewal-", |renewal| renewal["at"] = 0.into());
    ca.refuse_replacements();
    let second = site(&ca, |_| ()).await;
    until_replaced(&second, &serial).await;
    assert_eq!((ca.orders(), ca.renewals().1.len()), (3, 1));
}
