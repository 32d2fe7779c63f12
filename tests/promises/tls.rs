//! HTTPS with certificate files, and a client for it.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use rcgen::{CertificateParams, KeyPair, SerialNumber, date_time_ymd};
use roomcast::config::Settings;
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{TestServer, within};

mod handshakes;
mod own_files;
mod redirect;

pub const HOST: &str = "rt.example.com";

/// A temporary folder with a certificate and its key.
pub struct Files {
    pub folder: PathBuf,
}

/// A certificate and its key in PEM.
#[derive(Clone)]
pub struct Made {
    pub cert: String,
    pub key: String,
}

/// A self-signed certificate, valid from 2020 to the start of the year `until`. It is its own root.
pub fn make(serial: u64, until: i32) -> Made {
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
    pub fn new(name: &str, made: &Made) -> Self {
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

    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }

    pub fn settings(&self, settings: &mut Settings) {
        settings.tls_cert = Some(self.path("cert.pem"));
        settings.tls_key = Some(self.path("key.pem"));
        settings.https_addr = "127.0.0.1:0".into();
        settings.rthost = Some(HOST.into());
    }

    pub async fn site(&self) -> Arc<TestServer> {
        TestServer::start_with(|settings| self.settings(settings)).await
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A TLS connection that trusts only this certificate.
pub async fn connect(
    site: &TestServer,
    trusted: &Made,
    alpn: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    connect_by(&connector(trusted, alpn), site).await
}

/// The same over an existing connection.
pub async fn connect_over(stream: TcpStream, trusted: &Made) -> TlsStream<TcpStream> {
    let name = ServerName::try_from(HOST).expect("a name");
    within("a handshake", connector(trusted, &[]).connect(name, stream)).await.expect("TLS")
}

async fn connect_by(
    connector: &TlsConnector,
    site: &TestServer,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(site.https.expect("HTTPS")).await?;
    let name = ServerName::try_from(HOST).expect("a name");
    within("a handshake", connector.connect(name, stream)).await
}

fn connector(trusted: &Made, alpn: &[&str]) -> TlsConnector {
    connector_of(trusted, alpn, rustls::ALL_VERSIONS)
}

fn connector_of(
    trusted: &Made,
    alpn: &[&str],
    versions: &[&'static SupportedProtocolVersion],
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(trusted.cert.as_bytes()).expect("PEM");
    roots.add(root).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

/// Sends one request, and reads the response to its end.
async fn ask<S>(mut stream: S, path: &str, host: &str) -> String
where
    S: AsyncRead + AsyncWrite + Unpin,
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

async fn certificate(site: &TestServer) -> Value {
    let (_, status) = site.get("/status").await;
    let status: Value = serde_json::from_str(&status).expect("JSON");
    status["certificate"].clone()
}
