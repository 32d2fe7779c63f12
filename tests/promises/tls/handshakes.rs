//! TLS handshakes: versions, ALPN, stalled handshakes, and the connection limit.

use rustls::{
    ProtocolVersion,
    version::{TLS12, TLS13},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Files, HOST, ask, certificate, connect, connect_by, connector_of, make};
use crate::support::{Client, TestServer, within};

#[tokio::test]
async fn tls_1_2_and_1_3_are_accepted_and_older_versions_refused() {
    let made = make(1, 2100);
    let files = Files::new("versions", &made);
    let site = files.site().await;
    for (version, spoken) in
        [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)]
    {
        let connector = connector_of(&made, &[], &[version]);
        let stream = connect_by(&connector, &site).await.expect("TLS");
        assert_eq!(stream.get_ref().1.protocol_version(), Some(spoken));
        let alive = ask(stream, "/livez", HOST).await;
        assert!(alive.starts_with("HTTP/1.1 200 "), "{alive}");
    }

    // No client library supports older versions, so this sends raw bytes: a ClientHello. The server
    // answers with a ServerHello if it offers TLS 1.2, else with the alert protocol_version.
    const HANDSHAKE: u8 = 22;
    const ALERT: u8 = 21;
    const PROTOCOL_VERSION: u8 = 70;
    for (minor, kind) in [(3, HANDSHAKE), (2, ALERT), (1, ALERT), (0, ALERT)] {
        let mut stream = TcpStream::connect(site.https.expect("HTTPS")).await.expect("TCP");
        stream.write_all(&hello(minor)).await.expect("sent");
        let mut answer = [0; 7];
        within("an answer", stream.read_exact(&mut answer)).await.expect("an answer");
        assert_eq!(answer[0], kind, "3.{minor}: {answer:?}");
        assert!(kind != ALERT || answer[6] == PROTOCOL_VERSION, "3.{minor}: {answer:?}");
    }
}

/// A ClientHello that offers version 3.`minor` at most, by RFC 5246, 7.4.1.2.
fn hello(minor: u8) -> Vec<u8> {
    let extensions = [
        [0, 10, 0, 4, 0, 2, 0, 29].as_slice(), // supported_groups: x25519
        &[0, 11, 0, 2, 1, 0],                  // ec_point_formats: uncompressed
        &[0, 13, 0, 4, 0, 2, 4, 3],            // signature_algorithms: ecdsa_secp256r1_sha256
    ]
    .concat();
    let body = [
        [3, minor].as_slice(),
        &[7; 32],                        // random
        &[0],                            // no session
        &[0, 4, 0xc0, 0x2b, 0xc0, 0x09], // ECDHE-ECDSA with AES-128, GCM and CBC
        &[1, 0],                         // no compression
        &(extensions.len() as u16).to_be_bytes(),
        &extensions,
    ]
    .concat();
    let length = (body.len() as u32).to_be_bytes();
    let hello = [&[1], &length[1..], &body].concat();
    [[22, 3, 1].as_slice(), &(hello.len() as u16).to_be_bytes(), &hello].concat()
}

#[tokio::test]
async fn the_page_and_messages_are_served_over_tls() {
    let made = make(1, 2100);
    let files = Files::new("served", &made);
    let site = files.site().await;
    let page = ask(connect(&site, &made, &["http/1.1"]).await.expect("TLS"), "/", HOST).await;
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    // Browsers do not trust this certificate.
    assert!(!page.to_lowercase().contains("strict-transport-security"), "{page}");

    let stream = connect(&site, &made, &["h2", "http/1.1"]).await.expect("TLS");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let mut client = Client::upgrade(stream).await;
    client.enter().await;
    client.join("device01").await;
    let large = "x".repeat(200 << 10);
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
    site.until("it has stopped", async || site.is_over()).await;
}

#[tokio::test]
async fn a_client_that_offers_only_http_2_is_refused() {
    let made = make(1, 2100);
    let files = Files::new("alpn", &made);
    let site = files.site().await;
    assert!(connect(&site, &made, &["h2"]).await.is_err());
    site.until_metric("roomcast_tls_handshakes_total{result=\"failed\"}", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_handshakes_time_out_and_block_no_others() {
    const STALLED: usize = 200;
    let made = make(1, 2100);
    let files = Files::new("stalled", &made);
    let site = files.site().await;
    let mut stalled = Vec::new();
    for nth in 0..STALLED {
        let mut stream = TcpStream::connect(site.https.expect("HTTPS")).await.expect("TCP");
        // Half of them send nothing, the others begin a handshake.
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
async fn handshakes_count_as_connections_and_refusals_are_sent_over_tls() {
    let made = make(1, 2100);
    let files = Files::new("limit", &made);
    let site = TestServer::start_with(|settings| {
        files.settings(settings);
        settings.max_connections = Some("2".into());
    });
    let site = site.await;
    let _stalled = TcpStream::connect(site.https.expect("HTTPS")).await.expect("TCP");
    let _plain = TcpStream::connect(site.addr).await.expect("TCP");
    site.until_metric("roomcast_connections", 2).await;
    let answer = ask(connect(&site, &made, &[]).await.expect("TLS"), "/", HOST).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("MAX_CONNECTIONS"), "{answer}");
    // A pending handshake does not delay the exit.
    site.stop();
    site.until("it has stopped", async || site.is_over()).await;
}
