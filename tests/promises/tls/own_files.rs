//! A certificate and its key in files that somebody else keeps.

use roomcast::{
    Server,
    config::{Config, Settings},
};
use rustls::{
    HandshakeKind,
    version::{TLS12, TLS13},
};

use super::{Files, HOST, Made, ask, certificate, connect, connect_by, connector_of, make};
use crate::support::Client;

#[tokio::test]
async fn files_that_cannot_be_used_at_all_are_named_and_nothing_starts() {
    let (made, other) = (make(1, 2100), make(2, 2100));
    for (name, cert, key, told) in [
        ("mismatch", made.cert.as_str(), other.key.as_str(), "the key does not belong"),
        ("no-cert", "nothing", &made.key, "holds no certificate"),
        ("no-key", &made.cert, "nothing", "no key in PEM"),
    ] {
        let files = Files::new(name, &Made { cert: cert.into(), key: key.into() });
        let mut settings = Settings {
            http_addr: "127.0.0.1:0".into(),
            admin_addr: "off".into(),
            ..Settings::default()
        };
        files.settings(&mut settings);
        let config = Config::try_from(settings).expect("valid settings");
        let error = Server::bind(config).await.map(drop).expect_err(name);
        let error = format!("{error:#}");
        for part in ["TLS_CERT", "TLS_KEY", &files.path("cert.pem"), told] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }
}

#[tokio::test]
async fn files_that_change_are_used_at_once_unless_they_are_wrong() {
    let (first, second) = (make(1, 2100), make(2, 2100));
    let files = Files::new("swapped", &first);
    let site = files.site().await;
    let stream = connect(&site, &first, &["http/1.1"]).await.expect("TLS");
    let mut client = Client::upgrade(stream).await;
    client.enter().await;
    client.join("device01").await;

    let regulars = [&TLS12, &TLS13].map(|version| connector_of(&first, &[], &[version]));
    for regular in &regulars {
        // Its answer comes after the tickets for the next handshake.
        ask(connect_by(regular, &site).await.expect("TLS"), "/livez", HOST).await;
    }

    let reports = async |text: &str| {
        site.until(text, async || {
            certificate(&site).await["error"].as_str().is_some_and(|error| error.contains(text))
        })
        .await;
        assert_eq!(certificate(&site).await["serial"], "1");
        assert_eq!(certificate(&site).await["ok"], false);
        connect(&site, &first, &[]).await.expect("the first certificate");
    };
    // One of the two files is there, the other not yet.
    files.write(&Made { cert: second.cert.clone(), key: first.key.clone() });
    reports("does not belong").await;
    files.write(&make(3, 2021));
    reports("expired at 2021-01-01").await;
    files.write(&Made { cert: "nothing".into(), key: first.key.clone() });
    reports("holds no certificate").await;
    std::fs::remove_file(files.folder.join("key.pem")).expect("was there");
    reports("TLS_KEY: cannot read").await;
    // What was wrong is over when the files are as they were.
    files.write(&first);
    site.until("no error", async || certificate(&site).await["ok"] == true).await;

    files.write(&second);
    site.until("the second", async || certificate(&site).await["serial"] == "2").await;
    connect(&site, &second, &[]).await.expect("the second certificate");
    for regular in &regulars {
        let again = connect_by(regular, &site).await.expect("TLS");
        let kind = again.get_ref().1.handshake_kind();
        assert_eq!(kind, Some(HandshakeKind::Resumed), "tickets stay");
    }
    // Who was connected before has not noticed.
    site.publish("device01", "hello").await;
    assert_eq!(client.message().await, "hello");
}

#[tokio::test]
async fn an_expired_certificate_is_served_for_want_of_a_better_one_and_said() {
    let files = Files::new("expired", &make(1, 2021));
    let site = files.site().await;
    let (code, _) = site.get("/status").await;
    assert_eq!(code, 503);
    let error = certificate(&site).await["error"].clone();
    assert!(error.as_str().is_some_and(|error| error.contains("expired")), "{error}");
    assert_eq!(site.get("/readyz").await.0, 200);
    let good = make(2, 2100);
    files.write(&good);
    site.until("a good one", async || certificate(&site).await["ok"] == true).await;
    connect(&site, &good, &[]).await.expect("the good one");
}
