//! Redirects from HTTP to HTTPS, and HSTS.

use std::process::Stdio;

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::Command,
};

use super::{Files, HOST, ask, ask_plain, connector, make};
use crate::support::{TestServer, within};

#[tokio::test]
async fn plain_requests_are_redirected_to_the_configured_host() {
    let files = Files::new("redirect", &make(1, 2100));
    let site = TestServer::start_with(|settings| {
        files.settings(settings);
        // Any host is answered, as on a server that listens on all interfaces.
        settings.hosts = Some("*".into());
    })
    .await;
    for (path, to) in [
        ("/", "/"),
        ("/a/b?c=d", "/a/b?c=d"),
        ("//evil.example", "//evil.example"),
        ("http://evil.example/x", "/x"),
        ("/socket.io/?EIO=4&transport=polling", "/socket.io/?EIO=4&transport=polling"),
    ] {
        let answer = ask_plain(site.addr, path, "evil.example:1234").await.to_lowercase();
        assert!(answer.starts_with("http/1.1 308 "), "{answer}");
        let to = format!("\r\nlocation: https://{HOST}{to}\r\n").to_lowercase();
        assert!(answer.contains(&to), "{to} in {answer}");
    }
    let alive = ask_plain(site.addr, "/livez", "evil.example").await;
    assert!(alive.starts_with("HTTP/1.1 200 "), "{alive}");
}

/// In a container the port of the listener may differ from the public one in `RTHOST`.
#[tokio::test]
async fn redirects_name_the_public_port() {
    let files = Files::new("port", &make(1, 2100));
    for (rthost, origin) in [
        (Some(HOST.to_owned()), Some(format!("https://{HOST}"))),
        (Some(format!("{HOST}:8443,b.example")), Some(format!("https://{HOST}:8443"))),
        (None, None),
    ] {
        let site = TestServer::start_with(|settings| {
            files.settings(settings);
            settings.rthost = rthost;
        })
        .await;
        let own = format!("https://{HOST}:{}", site.https.expect("HTTPS").port());
        let answer = ask_plain(site.addr, "/", HOST).await;
        let to = format!("\r\nlocation: {}/\r\n", origin.unwrap_or(own));
        assert!(answer.contains(&to), "{to} in {answer}");
    }
}

#[tokio::test]
async fn hsts_is_sent_only_with_a_trusted_certificate() {
    let made = make(1, 2100);
    let files = Files::new("strict", &made);
    let nowhere = files.path("nowhere.pem");
    for (roots, told) in [(files.path("cert.pem"), true), (String::new(), false), (nowhere, false)]
    {
        // The program in its own process: `SSL_CERT_FILE` says which roots browsers trust here.
        let mut server = Command::new(env!("CARGO_BIN_EXE_roomcast"))
            .env_clear()
            .envs([("HTTP_ADDR", "127.0.0.1:0"), ("HTTPS_ADDR", "127.0.0.1:0")])
            .envs([("ADMIN_ADDR", "off"), ("REDISHOST", "embedded:0"), ("LOG_LEVEL", "error")])
            .envs([("TLS_CERT", files.path("cert.pem")), ("TLS_KEY", files.path("key.pem"))])
            .env("SSL_CERT_FILE", roots)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("runs");
        let mut lines = BufReader::new(server.stdout.take().expect("piped")).lines();
        let page = within("the page's address", async {
            loop {
                let line = lines.next_line().await.expect("UTF-8").expect("a server that runs");
                if let Some((_, port)) = line.split_once(&format!("https://{HOST}:")) {
                    return port.parse::<u16>().expect("a port");
                }
            }
        });
        let stream = TcpStream::connect(("127.0.0.1", page.await)).await.expect("TCP");
        let name = HOST.try_into().expect("a name");
        let stream = connector(&made, &[]).connect(name, stream).await.expect("TLS");
        let answer = ask(stream, "/", HOST).await;
        let strict = answer.contains("\r\nstrict-transport-security: max-age=2592000\r\n");
        assert_eq!(strict, told, "{answer}");
        server.kill().await.expect("killed");
    }
}
