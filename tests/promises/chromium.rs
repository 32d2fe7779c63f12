//! A real browser on HTTPS: Chromium with the stock client upgrades from polling to WebSocket.

use std::{path::Path, process::Stdio};

use rcgen::{CertificateParams, KeyPair};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::interval,
};

use crate::support::{LOOK_EVERY, TestServer, within};

const PAGE: &str =
    "<!doctype html><script src=/socket.io/socket.io.js></script><script src=/told.js></script>";
/// Logs each message with its transport on the console.
const SCRIPT: &str = "
const socket = io()
socket.on('connect', () => socket.emit('channel', 'device01'))
socket.on('message', payload => console.log(`TOLD ${payload} over ${socket.io.engine.transport.name}`))
";

/// The hash of a certificate's public key, by which Chromium is configured to trust it.
async fn hash_of_key(certificate: &Path) -> String {
    let script = format!(
        "openssl x509 -in '{}' -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64",
        certificate.display()
    );
    let output = Command::new("sh").args(["-c", &script]).output().await.expect("openssl");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs chromium and openssl: tests/run"]
async fn a_browser_upgrades_to_a_websocket_over_tls_and_gets_messages() {
    let folder = std::env::temp_dir().join(format!("roomcast-chromium-{}", std::process::id()));
    let path = |name: &str| folder.join(name);
    std::fs::create_dir_all(path("assets")).expect("a folder");
    let key = KeyPair::generate().expect("a key");
    let cert = CertificateParams::new(["localhost".to_owned()]).expect("names");
    let cert = cert.self_signed(&key).expect("signed");
    for (name, content) in [
        ("cert.pem", cert.pem().as_str()),
        ("key.pem", &key.serialize_pem()),
        ("assets/index.html", PAGE),
        ("assets/told.js", SCRIPT),
    ] {
        std::fs::write(path(name), content).expect("written");
    }
    let text = |name: &str| Some(path(name).to_string_lossy().into_owned());
    let site = TestServer::start_with(|settings| {
        settings.https_addr = "127.0.0.1:0".into();
        (settings.tls_cert, settings.tls_key) = (text("cert.pem"), text("key.pem"));
        settings.assets = text("assets");
    })
    .await;

    let profile = format!("--user-data-dir={}", path("profile").display());
    let trusted = hash_of_key(&path("cert.pem")).await;
    let mut browser = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", &profile])
        .arg(format!("--ignore-certificate-errors-spki-list={trusted}"))
        .arg(format!("https://localhost:{}/", site.https.expect("HTTPS").port()))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("chromium");
    let mut lines = BufReader::new(browser.stderr.take().expect("piped")).lines();
    let told = async {
        // Publish until a message has come over a WebSocket: the first ones may still arrive by
        // polling.
        let mut ticks = interval(LOOK_EVERY);
        loop {
            tokio::select! {
                _ = ticks.tick() => site.publish("device01", "hello").await,
                line = lines.next_line() => {
                    let line = line.expect("UTF-8").expect("a browser that runs");
                    if line.contains("TOLD hello over websocket") {
                        return;
                    }
                }
            }
        }
    };
    within("a message over a WebSocket", told).await;
    browser.kill().await.expect("killed");
    let _ = std::fs::remove_dir_all(&folder);
}
