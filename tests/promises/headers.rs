//! Security headers of all responses.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{TestServer, within};

/// The head of a response, in lower case.
async fn head(site: &TestServer, path: &str) -> String {
    let mut stream = TcpStream::connect(site.addr).await.expect("connected");
    let asked = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(asked.as_bytes()).await.expect("sent");
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(b"\r\n\r\n") {
        within("a head", stream.read_exact(&mut byte)).await.expect("a byte");
        answer.extend(byte);
    }
    String::from_utf8(answer).expect("UTF-8").to_lowercase()
}

#[tokio::test]
async fn every_response_has_security_headers_and_none_names_the_server() {
    let site = TestServer::start().await;
    let polling = "/socket.io/?EIO=4&transport=polling";
    let client = "/socket.io/socket.io.js";
    for path in ["/", "/main.js", client, "/nothing", "/livez", polling, "/socket.io/", "/events/x"]
    {
        let head = head(&site, path).await;
        assert!(head.contains("\r\nx-content-type-options: nosniff\r\n"), "{path}: {head}");
        assert!(head.contains("\r\nreferrer-policy: no-referrer\r\n"), "{path}: {head}");
        for name in ["server", "x-powered-by", "via"] {
            assert!(!head.contains(&format!("\r\n{name}:")), "{path}: {head}");
        }
        assert!(!head.contains(env!("CARGO_PKG_VERSION")), "{path}: {head}");
    }
}

#[tokio::test]
async fn the_page_runs_only_its_own_scripts() {
    let site = TestServer::start().await;
    let head = head(&site, "/").await;
    let policy = head.split("\r\ncontent-security-policy: ").nth(1).expect("a policy");
    let policy = policy.split("\r\n").next().expect("a line");
    assert!(!policy.contains("unsafe-"), "{policy}");
    for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(part), "{part} in {policy}");
    }
}

#[tokio::test]
async fn pages_of_the_origins_in_the_setting_may_frame_the_page() {
    let site = TestServer::start_with(|settings| {
        settings.frame_ancestors =
            Some("https://wall.example, https://*.intra.example:8443".into());
    })
    .await;
    let head = head(&site, "/").await;
    let ancestors =
        "; frame-ancestors 'self' https://wall.example https://*.intra.example:8443\r\n";
    assert!(head.contains(ancestors), "{head}");
}
