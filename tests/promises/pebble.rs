//! A CA for tests: Pebble, its DNS server, and a proxy in front that counts requests and injects
//! faults.

use std::{
    convert::Infallible,
    fs::DirEntry,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::header::CONTENT_LENGTH;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1 as client,
    server::conn::http1 as server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use roomcast::config::Settings;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::interval,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::{LOOK_EVERY, free_ports, within};

pub const HOST: &str = "rt.example.com";
/// All host names of the certificate.
const HOSTS: &str = "rt.example.com,www.example.com";
/// Pebble's paths: the directory, new orders and new accounts.
const DIRECTORY: &str = "/dir";
pub const NEW_ORDER: &str = "/order-plz";
const NEW_ACCOUNT: &str = "/sign-me-up";
/// The proxy's path for ACME renewal information.
const RENEWAL: &str = "/renewal/";
const LOCAL: &str = "127.0.0.1";
const WHOLE: &[u8] = b"whole\n";

/// How Pebble behaves.
pub struct Behaviour {
    /// Validity of certificates in seconds.
    pub validity: u64,
    /// Percentage of nonces that are rejected.
    pub refused_nonces: u8,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { validity: 30 * 24 * 3600, refused_nonces: 0 }
    }
}

/// What the proxy does instead of passing requests on.
#[derive(Clone, Default)]
pub struct Fault {
    /// Answers this instead of asking Pebble.
    pub answer: Option<Answer>,
    /// The renewal window that the proxy suggests, because Pebble 2.4 suggests none: start and end,
    /// in seconds since the Unix epoch.
    pub suggestion: Option<(u64, u64)>,
    /// Rejects orders that name a certificate to replace.
    pub no_replacements: bool,
}

/// An answer in place of Pebble's.
#[derive(Clone)]
pub struct Answer {
    /// The path to answer this way; all paths if empty.
    pub path: &'static str,
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: &'static str,
}

/// Pebble behind the proxy, both on free ports of this machine, stopped on drop.
pub struct Ca {
    pub folder: PathBuf,
    pebble: Command,
    children: [Child; 2],
    forward: Arc<Forward>,
    proxy: SocketAddr,
    management: SocketAddr,
    /// The name server that the CA asks, and its management interface.
    pub dns: SocketAddr,
    pub names: SocketAddr,
    /// The addresses at which the CA validates challenges: HTTP-01, and below TLS-ALPN-01.
    http: SocketAddr,
    https: SocketAddr,
    listening: Option<DropGuard>,
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    orders: AtomicU64,
    registrations: AtomicU64,
}

impl Ca {
    pub async fn start(name: &str, behaviour: Behaviour) -> Self {
        let folder =
            std::env::temp_dir().join(format!("roomcast-acme-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let (acceptor, connector) = certificates(&folder);
        let [pebble, management, http, https, dns, admin] = free_ports();
        let config = json!({ "pebble": {
            "listenAddress": pebble.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": folder.join("cert.pem"),
            "privateKey": folder.join("key.pem"),
            "httpPort": http.port(),
            "tlsPort": https.port(),
            "certificateValidityPeriod": behaviour.validity,
        }});
        let config_file = folder.join("pebble.json");
        std::fs::write(&config_file, config.to_string()).expect("written");
        let names = start(Command::new("pebble-challtestsrv").args([
            "-dns01",
            &dns.to_string(),
            "-management",
            &admin.to_string(),
            "-http01",
            "",
            "-https01",
            "",
            "-tlsalpn01",
            "",
            "-defaultIPv4",
            LOCAL,
            "-defaultIPv6",
            "",
        ]));
        let mut pebble_command = Command::new("pebble");
        pebble_command
            .arg("-config")
            .arg(&config_file)
            .args(["-dnsserver", &dns.to_string()])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", behaviour.refused_nonces.to_string());
        let children = [names, start(&mut pebble_command)];
        let [proxy] = free_ports();
        let forward = Arc::new(Forward {
            pebble,
            url: format!("https://{proxy}"),
            acceptor,
            connector,
            counts: Counts::default(),
            fault: Mutex::default(),
            asked: Mutex::default(),
            replaced: Mutex::default(),
            held: watch::Sender::new(false),
        });
        let mut ca = Self {
            folder,
            pebble: pebble_command,
            children,
            forward,
            proxy,
            management,
            dns,
            names: admin,
            http,
            https,
            listening: None,
        };
        ca.pick_up().await;
        for addr in [pebble, admin] {
            until(&format!("{addr} answers"), async || TcpStream::connect(addr).await.is_ok())
                .await;
        }
        ca
    }

    /// Refuses connections until `pick_up`.
    pub fn hang_up(&mut self) {
        self.listening = None;
    }

    /// Accepts connections again.
    pub async fn pick_up(&mut self) {
        let proxy = self.proxy;
        // The previous listener frees the port when its task ends.
        let listener = within("the port", async {
            loop {
                match TcpListener::bind(proxy).await {
                    Ok(listener) => return listener,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        });
        let stop = CancellationToken::new();
        let run = self.forward.clone().run(listener.await);
        tokio::spawn(stop.clone().run_until_cancelled_owned(run));
        self.listening = Some(stop.drop_guard());
    }

    /// Holds back the answers to all requests, or releases them.
    pub fn hold(&self, held: bool) {
        self.forward.held.send_replace(held);
    }

    /// Restarts Pebble: all accounts and orders are lost, and it has a new root.
    pub async fn forget(&mut self) {
        let _ = self.children[1].kill();
        let _ = self.children[1].wait();
        self.children[1] = start(&mut self.pebble);
        let pebble = self.forward.pebble;
        until("Pebble answers", async || TcpStream::connect(pebble).await.is_ok()).await;
    }

    pub fn settings(&self, settings: &mut Settings) {
        let path = |name: &str| Some(self.folder.join(name).to_string_lossy().into_owned());
        settings.rthost = Some(HOSTS.into());
        settings.http_addr = self.http.to_string();
        settings.https_addr = self.https.to_string();
        settings.acme_ca = format!("{}{DIRECTORY}", self.forward.url);
        settings.acme_ca_root = path("root.pem");
        settings.cert_dir = path("certs");
    }

    /// The settings as environment variables.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let mut settings = Settings::default();
        self.settings(&mut settings);
        vec![
            ("RTHOST", HOSTS.into()),
            ("HTTP_ADDR", settings.http_addr),
            ("HTTPS_ADDR", settings.https_addr),
            ("ACME_CA", settings.acme_ca),
            ("ACME_CA_ROOT", settings.acme_ca_root.unwrap_or_default()),
            ("CERT_DIR", settings.cert_dir.unwrap_or_default()),
        ]
    }

    pub fn store(&self) -> PathBuf {
        self.folder.join("certs")
    }

    /// The number of whole records of a kind in the store.
    pub fn stored(&self, kind: &str) -> usize {
        self.records(kind).len()
    }

    /// The text of the newest whole record of a kind.
    pub fn read(&self, kind: &str) -> String {
        // A newer record may have replaced it meanwhile.
        std::fs::read_to_string(self.path(kind)).unwrap_or_default()
    }

    /// The path of the newest whole record of a kind.
    pub fn path(&self, kind: &str) -> PathBuf {
        self.records(kind).into_iter().max().expect("a record")
    }

    fn records(&self, kind: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.store()).into_iter().flatten().flatten();
        let of_kind = |entry: &DirEntry| entry.file_name().to_string_lossy().starts_with(kind);
        // The last line of a record marks it as whole.
        let whole = |path: &PathBuf| std::fs::read(path).is_ok_and(|all| all.ends_with(WHOLE));
        entries.filter(of_kind).map(|entry| entry.path()).filter(whole).collect()
    }

    pub fn requests(&self) -> u64 {
        self.forward.counts.requests.load(Ordering::SeqCst)
    }

    pub fn orders(&self) -> u64 {
        self.forward.counts.orders.load(Ordering::SeqCst)
    }

    pub fn registrations(&self) -> u64 {
        self.forward.counts.registrations.load(Ordering::SeqCst)
    }

    /// The certificates whose renewal information was requested, and those that orders replace.
    pub fn renewals(&self) -> (Vec<String>, Vec<String>) {
        let of = |names: &Mutex<Vec<String>>| names.lock().expect("unpoisoned").clone();
        (of(&self.forward.asked), of(&self.forward.replaced))
    }

    /// Suggests a renewal window, in seconds since the Unix epoch.
    pub fn suggest(&self, from: u64, to: u64) {
        self.forward.fault.lock().expect("unpoisoned").suggestion = Some((from, to));
    }

    /// Rejects orders that name a certificate to replace.
    pub fn refuse_replacements(&self) {
        self.forward.fault.lock().expect("unpoisoned").no_replacements = true;
    }

    /// Answers all requests with this.
    pub fn answer(&self, status: u16, body: &'static str) {
        self.answer_at("", status, vec![], body);
    }

    /// Answers requests for one path with this.
    pub fn answer_at(
        &self,
        path: &'static str,
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: &'static str,
    ) {
        let answer = Some(Answer { path, status, headers, body });
        self.forward.fault.lock().expect("unpoisoned").answer = answer;
    }

    /// Passes requests on to Pebble again.
    pub fn recover(&self) {
        self.forward.fault.lock().expect("unpoisoned").answer = None;
    }

    /// Changes the newest record of a kind, as if time had passed.
    pub fn rewrite(&self, kind: &str, change: impl FnOnce(&mut Value)) {
        let newest = self.path(kind);
        let text = std::fs::read_to_string(&newest).expect("readable");
        let (record, whole) = text.split_once('\n').expect("a line that says that it is whole");
        let mut record: Value = serde_json::from_str(record).expect("JSON");
        change(&mut record);
        std::fs::write(newest, format!("{record}\n{whole}")).expect("written");
    }

    /// The serial number of the certificate that a handshake presents.
    pub async fn serial(&self) -> String {
        let stream = self.connect().await.expect("TLS");
        let chain = stream.get_ref().1.peer_certificates().expect("a certificate");
        let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).expect("X.509");
        format!("{:x}", leaf.serial)
    }

    /// A TLS connection to the host that trusts only Pebble's root.
    pub async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.management).await?;
        let name = ServerName::try_from(LOCAL).expect("an address");
        let stream = self.forward.connector.connect(name, stream).await?;
        let (_, pem) = ask(
            stream,
            Request::get("/roots/0")
                .header("host", LOCAL)
                .body(Full::default())
                .expect("a request"),
        )
        .await;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem).expect("PEM")).expect("a root");
        let stream = TcpStream::connect(self.https).await?;
        let name = ServerName::try_from(HOST).expect("a name");
        within("a handshake", connector(roots).connect(name, stream)).await
    }
}

impl Drop for Ca {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Polls a condition until it holds.
pub async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let mut looks = interval(LOOK_EVERY);
    within(what, async {
        while !condition().await {
            looks.tick().await;
        }
    })
    .await;
}

struct Forward {
    pebble: SocketAddr,
    /// The proxy's URL.
    url: String,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    counts: Counts,
    fault: Mutex<Fault>,
    asked: Mutex<Vec<String>>,
    replaced: Mutex<Vec<String>>,
    held: watch::Sender<bool>,
}

impl Forward {
    async fn run(self: Arc<Self>, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let forward = self.clone();
            tokio::spawn(async move {
                let Ok(stream) = forward.acceptor.accept(stream).await else { return };
                let service = service_fn(|request| {
                    let forward = forward.clone();
                    async move { Ok::<_, Infallible>(forward.answer(request).await) }
                });
                let _ =
                    server::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        self.counts.requests.fetch_add(1, Ordering::SeqCst);
        match path.as_str() {
            NEW_ORDER => self.counts.orders.fetch_add(1, Ordering::SeqCst),
            NEW_ACCOUNT => self.counts.registrations.fetch_add(1, Ordering::SeqCst),
            _ => 0,
        };
        let _ = self.held.subscribe().wait_for(|held| !held).await;
        let Fault { answer, suggestion, no_replacements } =
            self.fault.lock().expect("unpoisoned").clone();
        if let Some(fault) = answer.filter(|fault| fault.path.is_empty() || fault.path == path) {
            let mut answer = Response::builder().status(fault.status);
            for (name, value) in fault.headers {
                answer = answer.header(name, value);
            }
            return answer.body(Full::from(fault.body)).expect("a response");
        }
        if let (Some((from, to)), Some(name)) = (suggestion, path.strip_prefix(RENEWAL)) {
            self.asked.lock().expect("unpoisoned").push(name.to_owned());
            let time = |seconds| {
                humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds))
                    .to_string()
            };
            let info = json!({ "suggestedWindow": { "start": time(from), "end": time(to) } });
            let answer = Response::builder().header("retry-after", "3600");
            return answer.body(Full::from(info.to_string())).expect("a response");
        }
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let replaces = (path == NEW_ORDER).then(|| replaces(&body)).flatten();
        if let Some(replaces) = &replaces {
            self.replaced.lock().expect("unpoisoned").push(replaces.clone());
            if no_replacements {
                let kind = r#"{"type":"urn:ietf:params:acme:error:alreadyReplaced"}"#;
                let answer = Response::builder().status(409).body(Full::from(kind));
                return answer.expect("a response");
            }
        }
        let stream = TcpStream::connect(self.pebble).await.expect("Pebble runs");
        let name = ServerName::try_from(LOCAL).expect("an address");
        let stream = self.connector.connect(name, stream).await.expect("TLS");
        let (mut head, mut body) = ask(stream, Request::from_parts(head, Full::from(body))).await;
        let mut add = |name: &str, value: String| {
            let mut answer: Value = serde_json::from_slice(&body).expect("JSON");
            answer[name] = value.into();
            body = answer.to_string().into();
            head.headers.remove(CONTENT_LENGTH);
        };
        if suggestion.is_some() && path == DIRECTORY {
            add("renewalInfo", format!("{}{}", self.url, RENEWAL.trim_end_matches('/')));
        }
        if let Some(replaces) = replaces {
            add("replaces", replaces);
        }
        Response::from_parts(head, Full::from(body))
    }
}

/// The certificate that an order names in `replaces`.
fn replaces(signed: &[u8]) -> Option<String> {
    let signed: Value = serde_json::from_slice(signed).ok()?;
    let order = BASE64_URL_SAFE_NO_PAD.decode(signed["payload"].as_str()?).ok()?;
    let order: Value = serde_json::from_slice(&order).ok()?;
    Some(order["replaces"].as_str()?.to_owned())
}

async fn ask(
    stream: TlsStream<TcpStream>,
    request: Request<Full<Bytes>>,
) -> (http::response::Parts, Bytes) {
    let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await.expect("an answer").into_parts();
    (head, body.collect().await.expect("a body").to_bytes())
}

/// Creates a root and a certificate for the proxy and Pebble on this machine.
fn certificates(folder: &Path) -> (TlsAcceptor, TlsConnector) {
    let root_key = KeyPair::generate().expect("a key");
    let mut root = CertificateParams::new([]).expect("names");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = root.self_signed(&root_key).expect("signed");
    let key = KeyPair::generate().expect("a key");
    let names = CertificateParams::new([LOCAL.to_owned(), "localhost".to_owned()]).expect("names");
    let cert = names.signed_by(&key, &root, &root_key).expect("signed");
    for (name, pem) in
        [("root.pem", root.pem()), ("cert.pem", cert.pem()), ("key.pem", key.serialize_pem())]
    {
        std::fs::write(folder.join(name), pem).expect("written");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![cert.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
        )
        .expect("a pair");
    let mut roots = RootCertStore::empty();
    roots.add(root.der().clone()).expect("a root");
    (TlsAcceptor::from(Arc::new(server)), connector(roots))
}

fn connector(roots: RootCertStore) -> TlsConnector {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("Debian's package pebble")
}
