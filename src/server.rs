//! The server: bind → assemble → serve → drain.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    auth::Auth,
    config::{self, Config, RedisAddress, Source, TokenKey, Tokens},
    conn::{accept, capacity::Capacity},
    dev_redis::Embedded,
    http,
    metrics::Metrics,
    redis,
    rooms::snapshot::Snapshot,
};

mod assemble;
mod core_tasks;
mod reload;
mod running;
mod secure;

use reload::Certificate;
pub use reload::Reload;
use secure::{Renewal, Secure};

/// Of a secret that signs tokens, as RFC 7518 has it for HS256.
const SECRET_BYTES: usize = 32;

/// A server whose ports are bound and whose source is chosen, ready to run.
pub struct Server {
    config: Config,
    auth: Arc<Auth>,
    listener: TcpListener,
    https: Option<Secure>,
    metrics: Arc<Metrics>,
    admin: Option<TcpListener>,
    embedded: Option<Embedded>,
    redis: RedisAddress,
    snapshot: Option<Snapshot>,
    max_connections: usize,
    /// How many files the process may have open.
    files: usize,
}

impl Server {
    /// Binds all ports and decides where messages come from. Errors name the setting.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        // The second call of a process finds the first one's provider, which is the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let capacity = Capacity::new(config.limits.connections);
        if let Some(shortage) = capacity.shortage() {
            warn!("MAX_CONNECTIONS: {shortage}");
        }
        let Capacity { connections: max_connections, files, .. } = capacity;
        let listener = accept::bind("HTTP_ADDR", &config.http_addr).await?;
        let admin = match &config.admin_addr {
            Some(addr) => Some(accept::bind("ADMIN_ADDR", addr).await?),
            None => None,
        };
        let metrics = Arc::new(Metrics::default());
        let https = Secure::bind(&config, &metrics).await?;
        let snapshot = match config.state_dir.clone() {
            Some(folder) => {
                let bytes = assemble::limits(&config).bytes;
                Some(Snapshot::open(folder, bytes, metrics.clone()).await.context("STATE_DIR")?)
            }
            None => None,
        };
        let (redis, embedded) = choose_source(&config.source).await?;
        warn_of_open_doors(&config, https.as_ref().map_or(&listener, |https| &https.listener));
        let auth = Arc::new(Auth::new(&config));
        metrics.tokens_required.set(auth.wants_tokens().into());
        Ok(Self {
            config,
            auth,
            listener,
            https,
            metrics,
            admin,
            embedded,
            redis,
            snapshot,
            max_connections,
            files,
        })
    }

    /// What it was bound with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether page and sockets are answered under known host names alone.
    pub fn checks_hosts(&self) -> bool {
        let listener = self.https.as_ref().map_or(&self.listener, |https| &https.listener);
        http::hosts::are_checked(&self.config, is_loopback(listener), self.is_embedded())
    }

    /// Where page and sockets are served, or the way to HTTPS.
    pub fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Where page and sockets are served over HTTPS, if they are.
    pub fn https_addr(&self) -> Option<SocketAddr> {
        self.https.as_ref()?.listener.local_addr().ok()
    }

    /// Under which address page and sockets are served over HTTPS, as in `https://rt.example.com`.
    pub fn https_origin(&self) -> Option<String> {
        self.https.as_ref()?.redirect.origin()
    }

    /// What reads files again while the server runs.
    pub fn reload(&self) -> Reload {
        let certificate = match self.https.as_ref().map(|https| &https.renewal) {
            None => Certificate::None,
            Some(Renewal::Files(watch)) => Certificate::Files(watch.again()),
            Some(Renewal::Acme(acme)) => Certificate::Acme(acme.again()),
        };
        Reload { auth: self.auth.clone(), metrics: self.metrics.clone(), certificate }
    }

    /// Where health and metrics are served, if they are.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref()?.local_addr().ok()
    }

    /// The Redis that is watched.
    pub fn redis(&self) -> &RedisAddress {
        &self.redis
    }

    /// Whether that is the embedded broker.
    pub fn is_embedded(&self) -> bool {
        self.embedded.is_some()
    }

    /// How many connections are held.
    pub fn max_connections(&self) -> usize {
        self.max_connections
    }

    /// Serves until `stop`, then drains. Returns when all is closed, or the grace is over. An error
    /// says which core task has ended unasked; then the drain is short.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let running = assemble::assemble(self).await;
        running.serve(&stop).await;
        running.drain().await
    }
}

async fn choose_source(source: &Source) -> anyhow::Result<(RedisAddress, Option<Embedded>)> {
    let port = match source {
        Source::Redis(address) => return Ok((address.clone(), None)),
        Source::Detect(address) if redis::answers(address).await => {
            return Ok((address.clone(), None));
        }
        Source::Detect(_) => config::REDIS_PORT,
        Source::Embedded(port) => *port,
    };
    let embedded = Embedded::bind(port).await.with_context(|| {
        format!("cannot start the embedded broker at localhost:{port}: set REDISHOST to a Redis, or to embedded:PORT with a free port")
    })?;
    Ok((RedisAddress::tcp("127.0.0.1", embedded.port()), Some(embedded)))
}

/// Says what one should know before strangers find out.
fn warn_of_open_doors(config: &Config, listener: &TcpListener) {
    let reachable = !is_loopback(listener);
    match &config.tokens {
        None if reachable && !config.hosts.is_empty() => warn!(
            "everybody who reaches {} may watch every room: set JWT_SECRET or JWT_PUBLIC_KEY if that is not meant",
            config.hosts.join(", ")
        ),
        Some(Tokens { key: TokenKey::Secret(secret), .. })
            if secret.expose().len() < SECRET_BYTES =>
        {
            warn!(
                "JWT_SECRET has less than {SECRET_BYTES} bytes and can be guessed from a token: openssl rand -hex 32 makes a better one"
            );
        }
        _ => {}
    }
}

/// Whether this machine alone reaches a listener.
fn is_loopback(listener: &TcpListener) -> bool {
    listener.local_addr().is_ok_and(|addr| addr.ip().to_canonical().is_loopback())
}
