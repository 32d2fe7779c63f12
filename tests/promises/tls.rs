//! HTTPS with files of one's own: who is let in, what is swapped, where plain requests are sent.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use rcgen::{CertificateParams, KeyPair, SerialNumber, date_time_ymd};
use roomcast::config::Settings;
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{Client, Site, within};

const HOST: &str = "rt.example.com";

/// A folder with a certificate and its key.
struct Files {
    folder: PathBuf,
}

/// Two PEM texts.
struct Made {
    cert: String,
    key: String,
}

/// A self-signed certificate; it stands for itself as a root.
fn make(serial: u64, until: i32) -> Made {
    let mut params =
        CertificateParams::new([HOST.to_owned(), "127.0.0.1".to_owned()]).expect("names");
    params.serial_number = Some(SerialNumber::from(serial));
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    let key = KeyPair::generate().expect("a key");
    let cert = params.self_signed(&key).expect("signed");
    Made { cert: cert.pem(), key: key.serialize_pem() }
}

impl Files {
    fn new(name: &str, made: &Made) -> Self {
        let folder =
            std::env::temp_dir().join(format!("roomcast-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let files = Self { folder };
        files.write(made);
        files
    }

    fn write(&self, made: &Made) {
        std::fs::write(self.folder.join("cert.pem"), &made.cert).expect("written");
        std::fs::write(self.folder.join("key.pem"), &made.key).expect("written");
    }

    fn settings(&self, settings: &mut Settings) {
        let path = |name: &str| Some(self.folder.join(name).to_string_lossy().into_owned());
        settings.tls_cert = path("cert.pem");
        settings.tls_key = path("key.pem");
        settings.https_addr = "127.0.0.1:0".into();
        settings.rthost = Some(HOST.into());
    }

    async fn site(&self) -> Arc<Site> {
        Site::start_with(|settings| self.settings(settings)).await
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A TLS connection that trusts one certificate.
async fn connect(
    site: &Site,
    trusted: &Made,
    alpn: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    connect_by(&connector(trusted, alpn), site).await
}

async fn connect_by(
    connector: &TlsConnector,
    site: &Site,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(site.https.expect("HTTPS")).await?;
    let name = ServerName::try_from(HOST).expect("a name");
    within("a handshake", connector.connect(name, stream)).await
}

fn connector(trusted: &Made, alpn: &[&str]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(trusted.cert.as_bytes()).expect("PEM");
    roots.add(root).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

/// One request whose answer's head and body are read to the end.
async fn ask<S>(mut stream: S, path: &str, host: &str) -> String
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    within("an answer", stream.read_to_end(&mut answer)).await.expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn ask_plain(addr: SocketAddr, path: &str, host: &str) -> String {
    ask(TcpStream::connect(addr).await.expect("connected"), path, host).await
}

async fn certificate(site: &Site) -> Value {
    let (_, status) = site.get("/status").await;
    let status: Value = serde_json::from_str(&status).expect("JSON");
    status["certificate"].clone()
}

#[tokio::test]
async fn page_and_messages_come_over_tls() {
    let made = make(1, 2100);
    let files = Files::new("served", &made);
    let site = files.site().await;
    let page = ask(connect(&site, &made, &["http/1.1"]).await.expect("TLS"), "/", HOST).await;
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    // Nobody but us trusts this certificate.
    assert!(!page.to_lowercase().contains("strict-transport-security"), "{page}");

    let stream = connect(&site, &made, &["h2", "http/1.1"]).await.expect("TLS");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let mut client = Client::upgrade(stream).await;
    client.enter().await;
    client.join("device01").await;
    let large = "x".repeat(300 << 10);
    for payload in ["hello", &large] {
        site.publish("device01", payload).await;
        assert_eq!(client.message().await, payload);
    }
    assert_eq!(site.metric("roomcast_tls_handshakes_total{result=\"done\"}").await, 2);
    let not_after = site.metric("roomcast_certificate_not_after_seconds{source=\"files\"}").await;
    assert_eq!(not_after, 4_102_444_800);
    let certificate = certificate(&site).await;
    assert_eq!(certificate["ok"], true, "{certificate}");
    assert_eq!(certificate["names"], json!([HOST, "127.0.0.1"]));
    assert_eq!(certificate["not_after"], "2100-01-01T00:00:00Z");
    site.stop();
    assert_eq!(client.rest().await, Vec::<String>::new());
    site.until("it is over", async || site.is_over()).await;
}

#[tokio::test]
async fn a_client_that_wants_http_2_alone_is_refused() {
    let made = make(1, 2100);
    let files = Files::new("alpn", &made);
    let site = files.site().await;
    assert!(connect(&site, &made, &["h2"]).await.is_err());
    site.until_metric("roomcast_tls_handshakes_total{result=\"failed\"}", 1).await;
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

    // Its answer comes after the tickets for the next handshake.
    let regular = connector(&first, &[]);
    ask(connect_by(&regular, &site).await.expect("TLS"), "/livez", HOST).await;

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
    let again = connect_by(&regular, &site).await.expect("TLS");
    assert_eq!(again.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed), "tickets stay");
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

#[tokio::test]
async fn plain_requests_are_sent_to_the_configured_host_whatever_they_say() {
    let made = make(1, 2100);
    let files = Files::new("redirect", &made);
    let site = files.site().await;
    let port = site.https.expect("HTTPS").port();
    for (path, to) in [
        ("/", "/"),
        ("/a/b?c=d", "/a/b?c=d"),
        ("//evil.example", "//evil.example"),
        ("http://evil.example/x", "/x"),
        ("/socket.io/?EIO=4&transport=polling", "/socket.io/?EIO=4&transport=polling"),
    ] {
        let answer = ask_plain(site.addr, path, "evil.example").await.to_lowercase();
        assert!(answer.starts_with("http/1.1 308 "), "{answer}");
        let to = format!("\r\nlocation: https://{HOST}:{port}{to}\r\n").to_lowercase();
        assert!(answer.contains(&to), "{to} in {answer}");
    }
    let alive = ask_plain(site.addr, "/livez", "evil.example").await;
    assert!(alive.starts_with("HTTP/1.1 200 "), "{alive}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stalls_in_the_handshake_keeps_nobody_out_and_is_gone_after_its_time() {
    const STALLED: usize = 200;
    let made = make(1, 2100);
    let files = Files::new("stalled", &made);
    let site = files.site().await;
    let mut stalled = Vec::new();
    for nth in 0..STALLED {
        let mut stream = TcpStream::connect(site.https.expect("HTTPS")).await.expect("TCP");
        // Some say nothing at all, some begin a handshake.
        if nth % 2 == 0 {
            stream.write_all(&[22, 3, 1, 2, 0, 1, 0]).await.expect("sent");
        }
        stalled.push(stream);
    }
    site.until_metric("roomcast_connections", STALLED as u64).await;
    let page = ask(connect(&site, &made, &[]).await.expect("TLS"), "/livez", HOST).await;
    assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
    assert_eq!(site.metric("roomcast_tls_handshakes_total{result=\"late\"}").await, 0);
    for mut stream in stalled {
        let mut rest = Vec::new();
        let _ = within("the end", stream.read_to_end(&mut rest)).await;
    }
    site.until_metric("roomcast_connections", 0).await;
    assert_eq!(site.metric("roomcast_tls_handshakes_total{result=\"late\"}").await, STALLED as u64);
}

#[tokio::test]
async fn handshakes_count_as_connections_and_who_is_too_many_is_told_over_tls() {
    let made = make(1, 2100);
    let files = Files::new("limit", &made);
    let site = Site::start_with(|settings| {
        files.settings(settings);
        settings.max_connections = Some("2".into());
    });
    let site = site.await;
    let _stalled = TcpStream::connect(site.https.expect("HTTPS")).await.expect("TCP");
    let _plain = TcpStream::connect(site.addr).await.expect("TCP");
    site.until_metric("roomcast_connections", 2).await;
    let answer = ask(connect(&site, &made, &[]).await.expect("TLS"), "/", HOST).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("MAX_CONNECTIONS"), "{answer}");
    // A handshake does not hold up the end.
    site.stop();
    site.until("it is over", async || site.is_over()).await;
}
