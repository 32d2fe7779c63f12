//! `roomcast doctor`: finds faults, says what to do, and changes nothing.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use crate::{
    pebble::{Behaviour, Ca},
    support::{TestServer, free_ports, within},
    tls::{Files, HOST, Made, make},
};

/// The findings, in the order of the output.
#[derive(Debug)]
struct Report {
    code: Option<i32>,
    findings: Vec<Finding>,
}

#[derive(Debug)]
struct Finding {
    verdict: String,
    setting: String,
    text: String,
}

/// Settings without a fault: free ports, no admin listener, the embedded broker.
const FREE: [(&str, &str); 3] =
    [("HTTP_ADDR", "127.0.0.1:0"), ("ADMIN_ADDR", "off"), ("REDISHOST", "embedded:0")];

async fn run(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roomcast"));
    command.arg("doctor").args(args).env_clear().envs(variables.iter().copied());
    within("a report", command.kill_on_drop(true).output()).await.expect("runs")
}

async fn examine(variables: &[(&str, &str)]) -> Report {
    let output = run(&["--json"], &[&FREE[..], variables].concat()).await;
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let finding = |value: &Value| {
        let text = |name: &str| value[name].as_str().expect("a text").to_owned();
        Finding { verdict: text("verdict"), setting: text("setting"), text: text("text") }
    };
    Report { code: output.status.code(), findings: findings.iter().map(finding).collect() }
}

impl Report {
    /// Asserts a finding for `setting` whose text contains `says`. An empty `verdict` matches any.
    fn expect(&self, verdict: &str, setting: &str, says: &str) -> &Self {
        let fits = |found: &Finding| {
            let verdict = [&found.verdict, ""].contains(&verdict);
            verdict && found.setting == setting && found.text.contains(says)
        };
        assert!(self.findings.iter().any(fits), "no {verdict} {setting} {says} in {self:#?}");
        self
    }

    /// Asserts that `count` findings are not `ok`, and that the exit code is 1 if one is `fail`.
    fn expect_bad(&self, count: usize) {
        let bad = self.findings.iter().filter(|found| found.verdict != "ok");
        assert_eq!(bad.count(), count, "{self:#?}");
        let failed = self.findings.iter().any(|found| found.verdict == "fail");
        assert_eq!(self.code, Some(failed.into()), "{self:#?}");
    }
}

/// A temporary folder for one test, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("roomcast-doctor-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.0.join(name), content).expect("written");
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The content of a folder, recursively: files with their bytes, folders with `None`.
fn listing(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(listing(&path));
        }
        found.insert(path.clone(), fs::read(&path).ok());
    }
    found
}

#[tokio::test]
async fn all_findings_are_ok_beside_a_running_server() {
    let files = Files::new("doctor-all", &make(1, 2100));
    let site = files.site().await;
    let addrs = [site.addr, site.https.expect("HTTPS"), site.admin].map(|addr| addr.to_string());
    let (redis, [http, https, admin]) = (site.redis.to_string(), &addrs);
    let (cert, key) = (files.path("cert.pem"), files.path("key.pem"));
    let variables = [
        ("REDISHOST", redis.as_str()),
        ("HTTP_ADDR", http),
        ("HTTPS_ADDR", https),
        ("ADMIN_ADDR", admin),
        ("TLS_CERT", &cert),
        ("TLS_KEY", &key),
        ("SSL_CERT_FILE", &cert),
    ];
    let report = examine(&variables).await;
    report
        .expect("ok", "settings", "")
        .expect("ok", "REDISHOST", &redis)
        .expect("ok", "REDIS_CHANNELS", "all patterns")
        .expect("ok", "REDIS_CHANNELS", "came back")
        .expect("ok", "HTTP_ADDR", "by a roomcast")
        .expect("ok", "HTTPS_ADDR", "by a roomcast")
        .expect("ok", "ADMIN_ADDR", "by a roomcast")
        .expect("ok", "TLS_CERT", "for rt.example.com")
        .expect("ok", "MAX_CONNECTIONS", "files may be open")
        .expect("ok", "HISTORY_TTL", "reaches back 0 s")
        .expect_bad(0);

    // The readable output has one line per finding.
    let output = run(&[], &variables).await;
    let told = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(told.lines().count(), report.findings.len(), "{told}");
    assert!(told.lines().all(|line| line.starts_with("ok ")), "{told}");
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
}

#[tokio::test]
async fn a_history_that_does_not_fit_is_a_warning() {
    let site = TestServer::start_with(|settings| {
        settings.history_bytes = Some("64KiB".into());
    })
    .await;
    let payload = "x".repeat(50_000);
    for _ in 0..3 {
        site.publish("device01", &payload).await;
    }
    site.until_metric("roomcast_messages_total", 3).await;
    let (redis, admin) = (site.redis.to_string(), site.admin.to_string());
    let report = examine(&[("REDISHOST", &redis), ("ADMIN_ADDR", &admin)]).await;
    report.expect("warn", "HISTORY_BYTES", "raise HISTORY_BYTES");
}

#[tokio::test]
async fn a_redis_that_is_down_or_silent_does_not_stop_the_other_checks() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = taken.local_addr().expect("bound").to_string();
    examine(&[("REDISHOST", "127.0.0.1:1")])
        .await
        .expect("fail", "REDISHOST", "out of reach: check REDISHOST")
        .expect("ok", "HTTP_ADDR", "is free")
        .expect_bad(1);
    examine(&[("REDISHOST", &silent)])
        .await
        .expect("fail", "REDISHOST", "no answer within")
        .expect("ok", "HTTP_ADDR", "is free")
        .expect_bad(1);
}

#[tokio::test]
async fn a_port_that_is_in_use_is_named_with_its_setting() {
    let [taken] = free_ports();
    let listener = TcpListener::bind(taken).expect("a port");
    let taken = taken.to_string();
    let in_use = format!("{taken} is in use");
    examine(&[("HTTP_ADDR", &taken)]).await.expect("fail", "HTTP_ADDR", &in_use).expect_bad(1);
    drop(listener);
    // The port is free, but two settings claim it.
    examine(&[("HTTP_ADDR", &taken), ("ADMIN_ADDR", &taken)])
        .await
        .expect("ok", "HTTP_ADDR", "is free")
        .expect("fail", "ADMIN_ADDR", &in_use)
        .expect_bad(1);
}

#[tokio::test]
async fn bad_settings_are_findings() {
    let bad = [("HTTP_ADDR", "nowhere"), ("GRACE", "never"), ("REDIS_PASSWORD", "hunter2")];
    let report = examine(&bad).await;
    report.expect("fail", "HTTP_ADDR", "`nowhere`").expect("fail", "GRACE", "`never`");
    assert_eq!((report.code, report.findings.len()), (Some(2), 2));
    let output = run(&[], &bad).await;
    let told = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(told.lines().all(|line| line.starts_with("FAIL ")) && !told.contains("hunter2"));
}

#[tokio::test]
async fn checking_a_store_leaves_it_unchanged() {
    let folder = Folder::new("store");
    let made = make(7, 2100);
    fs::create_dir(folder.0.join("certs")).expect("made");
    folder.write("file", "no folder");
    let pem = format!("{}{}\n# roomcast: whole\n", made.key, made.cert);
    folder.write("certs/cert-rt.example.com-0123456789abcdef-00000004", &pem);
    let failed =
        r#"{"class":"validation","failures":1,"not_before":9999999999,"error":"no such host"}"#;
    let failed = format!("{failed}\n# roomcast: whole\n");
    folder.write("certs/attempts-rt.example.com-0123456789abcdef-00000001", &failed);
    let before = listing(&folder.0);

    let look = async |store: &str| {
        let store = folder.path(store);
        let own = [
            ("RTHOST", HOST),
            ("HTTPS_ADDR", "127.0.0.1:0"),
            ("ACME_CA", "https://127.0.0.1:1/dir"),
            ("CERT_DIR", &store),
            ("STATE_DIR", &store),
        ];
        examine(&own).await
    };
    let full = look("certs").await;
    // Whether the folder survives a restart (`ok` or `warn`) depends on where the tests run.
    full.expect("", "CERT_DIR", "can be written")
        .expect("", "STATE_DIR", "can be written")
        .expect("warn", "CERT_DIR", "for rt.example.com, 127.0.0.1 by")
        .expect("warn", "CERT_DIR", "no such host (validation); the next attempt is at 2286-")
        .expect("ok", "HTTPS_ADDR", "is free")
        .expect("fail", "ACME_CA", "https://127.0.0.1:1/dir: it cannot be reached");
    assert_eq!(full.code, Some(1));
    look("none/yet").await.expect("", "CERT_DIR", "can be made").expect(
        "ok",
        "CERT_DIR",
        "no certificate for rt.example.com yet",
    );
    // Not even root can create a folder there.
    for store in ["file", "file/certs"] {
        look(store).await.expect("fail", "CERT_DIR", "set CERT_DIR to a folder").expect(
            "fail",
            "STATE_DIR",
            "set STATE_DIR to a folder",
        );
    }
    assert_eq!(listing(&folder.0), before);

    folder.write(
        "certs/cert-rt.example.com-0123456789abcdef-00000004",
        "rotten\n# roomcast: whole\n",
    );
    look("certs").await.expect("fail", "CERT_DIR", "cert-rt.example.com-0123456789abcdef-00000004");
}

#[tokio::test]
async fn host_names_without_an_address_are_findings() {
    let folder = Folder::new("names");
    let store = folder.path("certs");
    examine(&[
        ("RTHOST", "localhost,nowhere.invalid"),
        ("HTTPS_ADDR", "127.0.0.1:0"),
        ("ACME_CA", "https://127.0.0.1:1/dir"),
        ("CERT_DIR", &store),
    ])
    .await
    .expect("ok", "RTHOST", "localhost leads to ")
    .expect("fail", "RTHOST", "no address is found for nowhere.invalid");
}

#[tokio::test]
async fn certificate_files_are_checked() {
    let (good, old, other) = (make(1, 2100), make(2, 2021), make(3, 2100));
    let mismatch = Made { cert: good.cert.clone(), key: other.key };
    let cases = [
        ("good", &good, "localhost,rt.example.com", "fail", "is not for localhost"),
        ("untrusted", &good, HOST, "warn", "browsers do not trust it"),
        ("old", &old, HOST, "fail", "expired at 2021-01-01"),
        ("mismatch", &mismatch, HOST, "fail", "the key does not belong to the certificate"),
    ];
    for (name, made, rthost, verdict, says) in cases {
        let files = Files::new(&format!("doctor-{name}"), made);
        let (cert, key) = (files.path("cert.pem"), files.path("key.pem"));
        let variables = [
            ("TLS_CERT", cert.as_str()),
            ("TLS_KEY", &key),
            ("HTTPS_ADDR", "127.0.0.1:0"),
            ("RTHOST", rthost),
        ];
        examine(&variables).await.expect(verdict, "TLS_CERT", says);
        if name == "untrusted" {
            let trusted = [&variables[..], &[("SSL_CERT_FILE", &cert)]].concat();
            examine(&trusted).await.expect("ok", "TLS_CERT", "until 2100-01-01");
        }
    }
}

/// A pipe without a writer blocks like a file on a network share whose server is gone.
#[cfg(unix)]
#[tokio::test]
async fn a_file_that_blocks_delays_neither_the_other_checks_nor_the_exit() {
    let folder = Folder::new("hangs");
    let hangs = folder.path("pipe");
    let made = Command::new("mkfifo").arg(&hangs).status().await.expect("mkfifo");
    assert!(made.success());
    examine(&[("TLS_CERT", &hangs), ("TLS_KEY", &hangs), ("HTTPS_ADDR", "127.0.0.1:0")])
        .await
        .expect("fail", "TLS_CERT", "no answer within")
        .expect("ok", "HTTPS_ADDR", "is free")
        .expect_bad(1);
}

#[tokio::test]
#[ignore = "needs pebble: tests/run"]
async fn a_ca_is_asked_for_its_directory_only() {
    let ca = Ca::start("doctor", Behaviour::default()).await;
    let mut variables = ca.variables();
    let own = |variables: &[(&'static str, String)]| {
        let shown: Vec<_> = variables.iter().map(|(name, value)| (*name, value.clone())).collect();
        async move {
            let shown: Vec<_> = shown.iter().map(|(name, value)| (*name, value.as_str())).collect();
            examine(&shown).await
        }
    };
    own(&variables).await.expect("ok", "ACME_CA", "answers");
    assert_eq!((ca.requests(), ca.orders()), (1, 0));
    assert!(!ca.store().exists());
    // Without its root the CA is not trusted, and gets no request.
    variables.retain(|(name, _)| *name != "ACME_CA_ROOT");
    own(&variables).await.expect("fail", "ACME_CA", "check ACME_CA, ACME_CA_ROOT");
    assert_eq!(ca.requests(), 1);
}

/// The line that begins with `word` in the banner of a server started with these settings.
async fn banner(word: &str, variables: &[(&str, &str)]) -> String {
    let mut server = Command::new(env!("CARGO_BIN_EXE_roomcast"))
        .env_clear()
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("runs");
    let mut lines = BufReader::new(server.stdout.take().expect("piped")).lines();
    let start = format!("  {word}");
    loop {
        let line = within("a line", lines.next_line()).await.expect("UTF-8").expect("a line");
        if let Some(told) = line.strip_prefix(&start) {
            return told.trim().to_owned();
        }
    }
}

#[tokio::test]
async fn the_access_finding_equals_the_access_line_of_the_banner() {
    let [http] = free_ports();
    let (loopback, all) = (http.to_string(), format!(":{}", http.port()));
    let (here, everywhere) = (
        format!("{http}, from this machine only"),
        format!("port {} of all interfaces", http.port()),
    );
    let closed = [("JWT_SECRET", "a secret of thirty-two bytes, ok"), ("PUBLISH_TOKEN", "token")];
    let named = [("JWT_SECRET", closed[0].1), ("HOSTS", "app.example")];
    for (addr, more, told) in [
        (
            &loopback,
            &[][..],
            format!(
                "watch: everyone; publish over HTTP: off; at {here}; under localhost and addresses"
            ),
        ),
        (
            &loopback,
            &closed[1..],
            format!(
                "watch: everyone; publish over HTTP: PUBLISH_TOKEN; at {here}; under localhost and addresses"
            ),
        ),
        (
            &all,
            &closed,
            format!(
                "watch: JWT required; publish over HTTP: PUBLISH_TOKEN or JWT; at {everywhere}; under localhost and addresses"
            ),
        ),
        (
            &all,
            &named,
            format!(
                "watch: JWT required; publish over HTTP: JWT; at {everywhere}; under localhost, app.example and addresses"
            ),
        ),
        (
            &all,
            &[("HOSTS", "*")],
            format!(
                "watch: everyone; publish over HTTP: off; at {everywhere}; under any host name"
            ),
        ),
    ] {
        let variables = [&FREE[..], &[("HTTP_ADDR", addr)], more].concat();
        examine(&variables).await.expect("ok", "access", &told).expect_bad(0);
        assert_eq!(banner("Access", &variables).await, told);
    }
}

#[tokio::test]
async fn a_misspelt_setting_is_a_finding() {
    let report = examine(&[("REDIS_HOST", "sesame")]).await;
    report.expect("warn", "REDIS_HOST", "did you mean REDISHOST?").expect_bad(1);
    let report = examine(&[("JWT_SECERT", "sesame")]).await;
    report.expect("fail", "JWT_SECERT", "did you mean JWT_SECRET?");
    assert_eq!(report.code, Some(2));
}
