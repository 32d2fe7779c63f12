//! A certificate and its key in files that another program renews.

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
async fn unusable_files_are_an_error_at_the_start() {
    let (made, other) = (make(1, 2100), make(2, 2100));
    let wrong_order = format!("{}{}", other.cert, made.cert);
    let trusted = made.cert.replace(" CERTIFICATE", " TRUSTED CERTIFICATE");
    let encrypted = made.key.replace(" PRIVATE KEY", " ENCRYPTED PRIVATE KEY");
    let encrypted_sec1 = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n\
                          -----END EC PRIVATE KEY-----\n";
    for (name, cert, key, told) in [
        ("mismatch", made.cert.as_str(), other.key.as_str(), "the key does not belong"),
        ("no-cert", "nothing", &made.key, "holds no certificate"),
        ("no-key", &made.cert, "nothing", "no key in PEM"),
        ("order", &wrong_order, &made.key, "comes first, then the one that has signed it"),
        ("trusted", &trusted, &made.key, "`TRUSTED CERTIFICATE`"),
        ("swapped-files", &made.key, &made.cert, "it holds a key"),
        ("encrypted", &made.cert, &encrypted, "the key is encrypted"),
        ("encrypted-sec1", &made.cert, encrypted_sec1, "the key is encrypted"),
        ("der", "0\u{82}\u{1}", &made.key, "holds no certificate"),
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
async fn changed_files_are_loaded_at_once_unless_they_are_invalid() {
    let (first, second) = (make(1, 2100), make(2, 2100));
    let files = Files::new("swapped", &first);
    let site = files.site().await;
    let stream = connect(&site, &first, &["http/1.1"]).await.expect("TLS");
    let mut client = Client::upgrade(stream).await;
    client.enter().await;
    client.join("device01").await;

    let regulars = [&TLS12, &TLS13].map(|version| connector_of(&first, &[], &[version]));
    for regular in &regulars {
        // The answer arrives after the session tickets, which the next handshake uses.
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
    // Only one of the two files is new.
    files.write(&Made { cert: second.cert.clone(), key: first.key.clone() });
    reports("does not belong").await;
    files.write(&make(3, 2021));
    reports("expired at 2021-01-01").await;
    files.write(&Made { cert: "nothing".into(), key: first.key.clone() });
    reports("holds no certificate").await;
    std::fs::remove_file(files.folder.join("key.pem")).expect("was there");
    reports("TLS_KEY: cannot read").await;
    // The error is over when the old files are back.
    files.write(&first);
    site.until("no error", async || certificate(&site).await["ok"] == true).await;

    files.write(&second);
    site.until("the second is in use", async || certificate(&site).await["serial"] == "2").await;
    connect(&site, &second, &[]).await.expect("the second certificate");
    for regular in &regulars {
        let again = connect_by(regular, &site).await.expect("TLS");
        let kind = again.get_ref().1.handshake_kind();
        assert_eq!(kind, Some(HandshakeKind::Resumed), "session tickets stay valid");
    }
    // The client from before is still connected.
    site.publish("device01", "hello").await;
    assert_eq!(client.message().await, "hello");
}

#[tokio::test]
async fn an_expired_certificate_is_served_and_reported() {
    let files = Files::new("expired", &make(1, 2021));
    let site = files.site().await;
    let (code, _) = site.get("/status").await;
    assert_eq!(code, 503);
    let error = certificate(&site).await["error"].clone();
    assert!(error.as_str().is_some_and(|error| error.contains("expired")), "{error}");
    assert_eq!(site.get("/readyz").await.0, 200);
    let good = make(2, 2100);
    files.write(&good);
    site.until("the good one is in use", async || certificate(&site).await["ok"] == true).await;
    connect(&site, &good, &[]).await.expect("the good certificate");
}
