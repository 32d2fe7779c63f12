//! The server's life cycle: bind → assemble → serve → drain.

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

/// Minimum bytes of `JWT_SECRET`: RFC 7518 requires this key size for HS256.
const SECRET_BYTES: usize = 32;

/// A server whose ports are bound and whose source is chosen, ready to run.
///
/// [`Self::bind`] makes every check that needs ports, files or Redis, so that [`Self::run`] does
/// not fail because of a setting. Nothing is served before `run`; dropping the server instead
/// closes the ports.
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
    /// Files that the process may have open.
    files: usize,
}

impl Server {
    /// Binds all ports, opens `STATE_DIR` and chooses the source: Redis or the embedded broker.
    ///
    /// # Errors
    ///
    /// Fails if a port cannot be bound, a certificate or a state cannot be read or the embedded
    /// broker cannot start. The error names the setting.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        // It fails if a provider is installed already; that is the same one.
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

    /// The settings that the server was bound with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether the public listener answers only under known host names.
    pub fn checks_hosts(&self) -> bool {
        let listener = self.https.as_ref().map_or(&self.listener, |https| &https.listener);
        http::hosts::are_checked(&self.config, is_loopback(listener), self.is_embedded())
    }

    /// The address of `HTTP_ADDR`, with the port that was bound. With HTTPS on, it serves redirects
    /// only.
    ///
    /// # Errors
    ///
    /// Fails if the operating system does not return the socket's address.
    pub fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// The address of `HTTPS_ADDR`, with the port that was bound; `None` without HTTPS.
    pub fn https_addr(&self) -> Option<SocketAddr> {
        self.https.as_ref()?.listener.local_addr().ok()
    }

    /// The public origin over HTTPS, as in `https://rt.example.com`; `None` without HTTPS, or while
    /// no host is known.
    pub fn https_origin(&self) -> Option<String> {
        self.https.as_ref()?.redirect.origin()
    }

    /// Returns the handle that rereads files while the server runs.
    pub fn reload(&self) -> Reload {
        let certificate = match self.https.as_ref().map(|https| &https.renewal) {
            None => Certificate::None,
            Some(Renewal::Files(watch)) => Certificate::Files(watch.again()),
            Some(Renewal::Acme(acme)) => Certificate::Acme(acme.again()),
        };
        Reload { auth: self.auth.clone(), metrics: self.metrics.clone(), certificate }
    }

    /// The address of `ADMIN_ADDR`, which serves health and metrics; `None` if it is off.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref()?.local_addr().ok()
    }

    /// The Redis that is subscribed to; with the embedded broker, its address.
    pub fn redis(&self) -> &RedisAddress {
        &self.redis
    }

    /// Whether the source is the embedded broker.
    pub fn is_embedded(&self) -> bool {
        self.embedded.is_some()
    }

    /// Maximum number of public connections: `MAX_CONNECTIONS`, as far as the limit of open files
    /// allows.
    pub fn max_connections(&self) -> usize {
        self.max_connections
    }

    /// Serves until `stop` is cancelled, then drains. Returns when all connections are closed, or a
    /// few seconds after the grace.
    ///
    /// # Errors
    ///
    /// If a core task ends or panics while the server runs, the server drains with a short grace
    /// and returns an error that names the task.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: dropping the future skips the drain and leaves the tasks running. Cancel
    /// `stop` instead.
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

/// Warns if a server with a public name is open to everyone, or if its secret is weak.
fn warn_of_open_doors(config: &Config, listener: &TcpListener) {
    let reachable = !is_loopback(listener);
    match &config.tokens {
        None if reachable && !config.hosts.is_empty() => warn!(
            "everyone who reaches {} may watch every room: set JWT_SECRET or JWT_PUBLIC_KEY to require tokens",
            config.hosts.join(", ")
        ),
        Some(Tokens { key: TokenKey::Secret(secret), .. })
            if secret.expose().len() < SECRET_BYTES =>
        {
            warn!(
                "JWT_SECRET is shorter than {SECRET_BYTES} bytes and can be guessed from a token: replace it by the output of `openssl rand -hex 32`"
            );
        }
        _ => {}
    }
}

/// Whether a listener is on a loopback address, so that only this machine reaches it.
fn is_loopback(listener: &TcpListener) -> bool {
    listener.local_addr().is_ok_and(|addr| addr.ip().to_canonical().is_loopback())
}
