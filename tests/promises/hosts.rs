//! The host names under which a server answers: DNS rebinding, `HOSTS`, and proxies.

use std::net::{Ipv4Addr, SocketAddr};

use roomcast::config::Settings;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::support::{Redis, TestServer, free_ports, within};

const OWN: [&str; 9] = [
    "localhost",
    "LocalHost:80",
    "localhost.",
    "a.b.localhost:8080",
    "127.0.0.1",
    "127.0.0.1:8080",
    "[::1]:8080",
    "[2001:db8::1]",
    "192.168.1.7:8080",
];
const FOREIGN: [&str; 10] = [
    "evil.example",
    "evil.example:8080",
    "evil.example.",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evillocalhost",
    "x",
    "evil.example@localhost",
    "localhost, evil.example",
    "\u{e9}",
];
const PUBLIC: [&str; 8] = [
    "GET /",
    "GET /main.js",
    "GET /nothing",
    "GET /socket.io/?EIO=4&transport=polling",
    "POST /socket.io/?EIO=4&transport=polling",
    "GET /events/room",
    "POST /publish/room",
    "GET /livez",
];
const ADMIN: [&str; 4] = ["GET /livez", "GET /readyz", "GET /status", "GET /metrics"];

/// The whole response to a request with this head, on a connection that closes after it.
async fn ask(addr: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.expect("connected");
    let head = format!("{head}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    within("an answer", stream.read_to_end(&mut answer)).await.expect("read");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status line of the response to a request for the host `localhost`.
async fn status_line(addr: SocketAddr, request: &str) -> String {
    let stream = TcpStream::connect(addr).await.expect("connected");
    let mut stream = BufReader::new(stream);
    let head = format!("{request} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut line = String::new();
    within("an answer", stream.read_line(&mut line)).await.expect("read");
    line
}

async fn ask_under(addr: SocketAddr, request: &str, host: &str) -> String {
    ask(addr, &format!("{request} HTTP/1.1\r\nhost: {host}")).await
}

fn is_refused(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 421 ")
}

/// A server that listens on all interfaces, with an external Redis.
async fn start_open(change: impl FnOnce(&mut Settings)) -> (std::sync::Arc<TestServer>, Redis) {
    let [redis] = free_ports();
    let source = Redis::start(redis.port()).await;
    let site = TestServer::start_with(|settings| {
        settings.http_addr = "0.0.0.0:0".into();
        settings.admin_addr = "0.0.0.0:0".into();
        settings.redishost = Some(redis.to_string());
        change(settings);
    })
    .await;
    (site, source)
}

fn local(addr: SocketAddr) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, addr.port()).into()
}

#[tokio::test]
async fn requests_for_a_foreign_host_are_refused() {
    let site =
        TestServer::start_with(|settings| settings.publish_token = Some("token".into())).await;
    let listeners = [(site.addr, &PUBLIC[..]), (site.admin, &ADMIN)];
    for (addr, requests) in listeners {
        for request in requests {
            let answer = ask_under(addr, request, "evil.example").await;
            assert!(is_refused(&answer), "{request}: {answer}");
            let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
            assert!(body.contains("HOSTS") && body.contains("evil.example"), "{request}: {body}");
            assert!(!head.to_lowercase().contains("access-control"), "{request}: {head}");
            let own = status_line(addr, request).await;
            assert!(!is_refused(&own), "{request}: {own}");
        }
        for host in FOREIGN {
            let answer = ask_under(addr, "GET /livez", host).await;
            assert!(is_refused(&answer), "{host}: {answer}");
        }
        for host in OWN {
            let answer = ask_under(addr, "GET /livez", host).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
        }
    }
    let upgrade = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nhost: evil.example\r\n\
                   upgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==";
    assert!(is_refused(&ask(site.addr, upgrade).await));
    let refused = r#"roomcast_refusals_total{reason="host"}"#;
    assert!(site.metric(refused).await >= (PUBLIC.len() + FOREIGN.len()) as u64);
}

#[tokio::test]
async fn every_host_name_in_a_request_is_checked_and_none_is_required() {
    let site = TestServer::start().await;
    for head in [
        "GET http://evil.example/livez HTTP/1.1\r\nhost: localhost",
        "GET /livez HTTP/1.1\r\nhost: localhost\r\nhost: evil.example",
        "GET /livez HTTP/1.1\r\nhost: evil.example\r\nhost: localhost",
        "GET /livez HTTP/1.1\r\nhost: evil.example\r\nx-forwarded-host: localhost",
    ] {
        let answer = ask(site.addr, head).await;
        assert!(is_refused(&answer), "{head}: {answer}");
    }
    for head in ["GET /livez HTTP/1.0", "GET http://localhost/livez HTTP/1.1\r\nhost: localhost"] {
        let answer = ask(site.addr, head).await;
        assert!(answer.contains(" 200 OK\r\n"), "{head}: {answer}");
    }
}

#[tokio::test]
async fn hosts_adds_names() {
    let site = TestServer::start_with(|settings| {
        settings.hosts = Some("App.example, *.rt.example,my_box".into());
    })
    .await;
    for host in ["app.example", "APP.example:8080", "a.rt.example", "my_box:1", "localhost"] {
        let answer = ask_under(site.addr, "GET /livez", host).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
        let answer = ask_under(site.admin, "GET /status", host).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
    }
    for host in ["rt.example", "a.b.rt.example", "x.app.example", "evil.example"] {
        assert!(is_refused(&ask_under(site.addr, "GET /livez", host).await), "{host}");
        assert!(is_refused(&ask_under(site.admin, "GET /status", host).await), "{host}");
    }
    let any = TestServer::start_with(|settings| settings.hosts = Some("*".into())).await;
    let answer = ask_under(any.addr, "GET /livez", "evil.example").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn with_all_interfaces_and_an_external_redis_any_host_is_answered_unless_hosts_is_set() {
    let (site, _redis) = start_open(|_| ()).await;
    for host in OWN.iter().chain(&FOREIGN) {
        assert!(!is_refused(&ask_under(local(site.addr), "GET /livez", host).await), "{host}");
        assert!(!is_refused(&ask_under(local(site.admin), "GET /status", host).await), "{host}");
    }
    let (site, _redis) = start_open(|settings| settings.hosts = Some("app.example".into())).await;
    for addr in [site.addr, site.admin].map(local) {
        assert!(is_refused(&ask_under(addr, "GET /livez", "evil.example").await));
        // Probes and Prometheus send an IP address as the host.
        for host in ["app.example", "10.1.2.3:8081", "localhost"] {
            let answer = ask_under(addr, "GET /livez", host).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
        }
    }
}

#[tokio::test]
async fn each_listener_has_its_own_rule() {
    let (site, _redis) = start_open(|settings| settings.admin_addr = "127.0.0.1:0".into()).await;
    assert!(!is_refused(&ask_under(local(site.addr), "GET /livez", "evil.example").await));
    assert!(is_refused(&ask_under(site.admin, "GET /status", "evil.example").await));
    // The embedded broker is for this machine: foreign hosts are refused on all interfaces too.
    let site = TestServer::start_with(|settings| settings.http_addr = "0.0.0.0:0".into()).await;
    assert!(is_refused(&ask_under(local(site.addr), "GET /", "evil.example").await));
}

#[tokio::test]
async fn the_forwarded_host_of_a_trusted_proxy_is_checked() {
    let site = TestServer::start_with(|settings| {
        settings.hosts = Some("app.example".into());
        settings.trusted_proxies = Some("127.0.0.1".into());
    })
    .await;
    for (host, forwarded, passes) in [
        ("127.0.0.1:8080", "app.example", true),
        ("app.example", "app.example:443", true),
        ("upstream", "app.example", true),
        ("127.0.0.1:8080", "evil.example", false),
        ("127.0.0.1:8080", "app.example, evil.example", false),
        // A script in a page can set `x-forwarded-host` too, so `host` must be allowed as well.
        ("evil.example", "app.example", false),
        ("evil.example:8080", "localhost", false),
    ] {
        let head = format!("GET / HTTP/1.1\r\nhost: {host}\r\nx-forwarded-host: {forwarded}");
        let answer = ask(site.addr, &head).await;
        assert_eq!(!is_refused(&answer), passes, "{host} {forwarded}: {answer}");
    }
}
