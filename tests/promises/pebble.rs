//! A CA of one's own: Pebble, its DNS, and a proxy before it that counts and refuses.

use std::{
    convert::Infallible,
    fs::DirEntry,
    net::{SocketAddr, TcpListener as StdListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

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
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    time::interval,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::{LOOK_EVERY, within};

pub const HOST: &str = "rt.example.com";
/// All names of the certificate.
const HOSTS: &str = "rt.example.com,www.example.com";
/// Where Pebble takes orders.
pub const NEW_ORDER: &str = "/order-plz";
const LOCAL: &str = "127.0.0.1";

/// How Pebble and the proxy before it behave.
pub struct Behaviour {
    /// Seconds that certificates hold.
    pub validity: u64,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { validity: 30 * 24 * 3600 }
    }
}

/// What the proxy does with requests.
#[derive(Default)]
pub struct Fault {
    /// Answers this instead of asking Pebble.
    pub answer: Option<Answer>,
}

/// Instead of Pebble's.
#[derive(Clone)]
pub struct Answer {
    /// What it answers so; all, if empty.
    pub path: &'static str,
    pub status: u16,
    /// Its headers and its body.
    pub headers: Vec<(&'static str, String)>,
    pub body: &'static str,
}

/// Pebble behind the proxy, both on free ports of this machine, gone with this value.
pub struct Ca {
    pub folder: PathBuf,
    children: Vec<Child>,
    directory: String,
    management: SocketAddr,
    connector: TlsConnector,
    /// The name server that the CA asks, and where it is told what to answer.
    pub dns: SocketAddr,
    pub names: SocketAddr,
    /// Where the CA looks for the host.
    http: SocketAddr,
    https: SocketAddr,
    counts: Arc<Counts>,
    pub fault: Arc<Mutex<Fault>>,
    _stop: DropGuard,
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    orders: AtomicU64,
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
        let pebble_process = start(
            Command::new("pebble")
                .arg("-config")
                .arg(&config_file)
                .args(["-dnsserver", &dns.to_string()])
                .env("PEBBLE_VA_NOSLEEP", "1")
                .env("PEBBLE_WFE_NONCEREJECT", "0"),
        );
        let proxy = TcpListener::bind((LOCAL, 0)).await.expect("a port");
        let directory = format!("https://{}/dir", proxy.local_addr().expect("bound"));
        let (counts, fault) = (Arc::new(Counts::default()), Arc::default());
        let stop = CancellationToken::new();
        let forward = Forward {
            pebble,
            connector: connector.clone(),
            counts: counts.clone(),
            fault: Arc::clone(&fault),
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(forward.run(proxy, acceptor)));
        let children = vec![names, pebble_process];
        let _stop = stop.drop_guard();
        let ca = Self {
            folder,
            children,
            directory,
            management,
            connector,
            dns,
            names: admin,
            http,
            https,
            counts,
            fault,
            _stop,
        };
        for addr in [pebble, admin] {
            until(&format!("{addr} answers"), async || TcpStream::connect(addr).await.is_ok())
                .await;
        }
        ca
    }

    pub fn settings(&self, settings: &mut Settings) {
        let path = |name: &str| Some(self.folder.join(name).to_string_lossy().into_owned());
        settings.rthost = Some(HOSTS.into());
        settings.http_addr = self.http.to_string();
        settings.https_addr = self.https.to_string();
        settings.acme_ca = self.directory.clone();
        settings.acme_ca_root = path("root.pem");
        settings.cert_dir = path("certs");
    }

    /// The same as environment variables.
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

    /// How many records of a kind the store has.
    pub fn stored(&self, kind: &str) -> usize {
        self.records(kind).len()
    }

    /// The newest of them.
    pub fn read(&self, kind: &str) -> String {
        let newest = self.records(kind).into_iter().max().expect("a record");
        std::fs::read_to_string(newest).expect("readable")
    }

    fn records(&self, kind: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.store()).into_iter().flatten().flatten();
        let of_kind = |entry: &DirEntry| entry.file_name().to_string_lossy().starts_with(kind);
        entries.filter(of_kind).map(|entry| entry.path()).collect()
    }

    pub fn requests(&self) -> u64 {
        self.counts.requests.load(Ordering::SeqCst)
    }

    pub fn orders(&self) -> u64 {
        self.counts.orders.load(Ordering::SeqCst)
    }

    /// Answers everything so.
    pub fn answer(&self, status: u16, body: &'static str) {
        self.answer_at("", status, vec![], body);
    }

    /// Answers one path so.
    pub fn answer_at(
        &self,
        path: &'static str,
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: &'static str,
    ) {
        let answer = Some(Answer { path, status, headers, body });
        self.fault.lock().expect("unpoisoned").answer = answer;
    }

    /// Asks Pebble again.
    pub fn recover(&self) {
        *self.fault.lock().expect("unpoisoned") = Fault::default();
    }

    /// A TLS connection to the host that trusts what Pebble has issued.
    pub async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.management).await?;
        let name = ServerName::try_from(LOCAL).expect("an address");
        let stream = self.connector.connect(name, stream).await?;
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

/// Waits until a condition holds that nobody tells about.
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
    connector: TlsConnector,
    counts: Arc<Counts>,
    fault: Arc<Mutex<Fault>>,
}

impl Forward {
    async fn run(self, listener: TcpListener, acceptor: TlsAcceptor) {
        let forward = Arc::new(self);
        while let Ok((stream, _)) = listener.accept().await {
            let (forward, acceptor) = (forward.clone(), acceptor.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
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
        self.counts.requests.fetch_add(1, Ordering::SeqCst);
        let path = request.uri().path().to_owned();
        if path == NEW_ORDER {
            self.counts.orders.fetch_add(1, Ordering::SeqCst);
        }
        let fault = self.fault.lock().expect("unpoisoned").answer.clone();
        if let Some(fault) = fault.filter(|fault| fault.path.is_empty() || fault.path == path) {
            let mut answer = Response::builder().status(fault.status);
            for (name, value) in fault.headers {
                answer = answer.header(name, value);
            }
            return answer.body(Full::from(fault.body)).expect("a response");
        }
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let stream = TcpStream::connect(self.pebble).await.expect("Pebble runs");
        let name = ServerName::try_from(LOCAL).expect("an address");
        let stream = self.connector.connect(name, stream).await.expect("TLS");
        let (head, body) = ask(stream, Request::from_parts(head, Full::from(body))).await;
        Response::from_parts(head, Full::from(body))
    }
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

/// A root, and a certificate for what runs on this machine.
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

/// Ports that were free a moment ago; others are told theirs, and cannot tell us.
fn free_ports<const COUNT: usize>() -> [SocketAddr; COUNT] {
    let listeners = [(); COUNT].map(|()| StdListener::bind((LOCAL, 0)).expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("bound"))
}

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("Debian's package pebble")
}
