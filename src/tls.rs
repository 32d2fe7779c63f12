//! The server side of TLS: handshakes with a time limit, ALPN protocols and session tickets.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use rustls::{
    ServerConfig,
    crypto::ring::{Ticketer, default_provider},
};
use rustls_acme::acme::ACME_TLS_ALPN_NAME;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::info;

use crate::{
    log_limit::LogLimit,
    metrics::{Handshake, Metrics},
    store,
};

pub mod acme;
mod answers;
mod backoff;
pub mod certificates;
mod client;
mod dns;
pub mod files;
pub mod inspect;
mod pair;
pub mod pem;
pub mod roots;

use certificates::Certificates;

/// Time limit of a handshake: enough for three round trips on a very slow mobile connection.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for sending `close_notify` on a connection that is closed after its handshake.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// The ALPN protocol for all clients. HTTP/2 is not offered: WebSocket connections here start as an
/// HTTP/1.1 upgrade, and WebSocket over HTTP/2 is not supported.
const HTTP_1_1: &[u8] = b"http/1.1";

/// Scanners and port checks cause failed handshakes all day, so the log gets one line a minute with
/// the number of failures that were left out.
static FAILED: LogLimit = LogLimit::new(1);

/// Turns accepted TCP streams into TLS streams. Clones share one TLS configuration.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    metrics: Arc<Metrics>,
}

impl Tls {
    /// Creates the TLS configuration. Each handshake uses the certificate that is current at that
    /// moment. The configuration, and with it the keys of the session tickets, stays the same when
    /// the certificate is replaced.
    ///
    /// `challenges` allows handshakes in which a CA validates a host by TLS-ALPN-01.
    pub fn new(
        certificates: Arc<Certificates>,
        challenges: bool,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .context("cannot select the TLS versions")?
            .with_no_client_auth()
            .with_cert_resolver(certificates);
        config.alpn_protocols = vec![HTTP_1_1.to_vec()];
        if challenges {
            config.alpn_protocols.push(ACME_TLS_ALPN_NAME.to_vec());
        }
        config.ticketer = Ticketer::new().context("cannot create keys for session tickets")?;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), metrics })
    }

    /// Performs the handshake, which may take up to 10 s, and counts its result in the metrics.
    ///
    /// # Errors
    ///
    /// The handshake failed or took too long, or it was a CA's TLS-ALPN-01 challenge. A challenge
    /// is answered by the handshake alone, and is not counted.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the connection is closed.
    pub async fn accept<T>(&self, io: T, peer: SocketAddr) -> io::Result<TlsStream<T>>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let accepted = timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(io)).await;
        let (result, accepted): (_, io::Result<_>) = match accepted {
            Ok(Ok(mut stream)) => {
                if stream.get_ref().1.alpn_protocol() == Some(ACME_TLS_ALPN_NAME) {
                    // The handshake was the answer. RFC 8737 requires closing the connection next.
                    let _ = timeout(GOODBYE_TIMEOUT, stream.shutdown()).await;
                    return Err(io::Error::other("the handshake was a TLS-ALPN-01 challenge"));
                }
                (Handshake::Done, Ok(stream))
            }
            Ok(Err(error)) => (Handshake::Failed, Err(error)),
            Err(late) => (Handshake::Late, Err(late.into())),
        };
        self.metrics.handshakes(result).inc();
        accepted.inspect_err(|error| {
            let error = error.to_string();
            FAILED.line(move |left_out| info!(left_out, %peer, "a TLS handshake failed: {error}"));
        })
    }
}
