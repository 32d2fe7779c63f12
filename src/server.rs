//! The server: bind → assemble → serve → drain.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    accept::{self, Accept},
    addresses::Addresses,
    auth::Auth,
    backlog::{self, Backlog},
    broker::{
        self,
        embedded::Embedded,
        redis::{Link, Subscription},
    },
    capacity::Capacity,
    config::{self, Config, RedisAddress, Source, TokenKey, Tokens},
    drain, fanout,
    health::Health,
    history::Bounds,
    http::{self, Publishing, Rear, admin::Admin, hosts::Hosts, polling::Engine},
    memory,
    metrics::{Gauge, Metrics},
    rooms::{Limits, Rooms},
    snapshot::Snapshot,
    sockets::{self, Shared, expiry::Expiry, session::Sessions},
    stream::Streams,
};

mod secure;

use secure::{Renewal, Secure};

/// What the past of all rooms may take, if there is enough memory.
const HISTORY_BYTES: usize = 32 << 20;
/// The part of a container's memory that it may take, one in so many.
const HISTORY_SHARE: usize = 8;
/// Connections of the admin listener.
const MAX_ADMIN_CONNECTIONS: usize = 64;
/// Of a secret that signs tokens, as RFC 7518 has it for HS256.
const SECRET_BYTES: usize = 32;

/// A server whose ports are bound and whose source is chosen, ready to run.
pub struct Server {
    config: Config,
    listener: TcpListener,
    https: Option<Secure>,
    metrics: Arc<Metrics>,
    admin: Option<TcpListener>,
    embedded: Option<Embedded>,
    redis: RedisAddress,
    snapshot: Option<Snapshot>,
    max_connections: usize,
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
        let max_connections = capacity.connections;
        let listener = accept::bind("HTTP_ADDR", &config.http_addr).await?;
        let admin = match &config.admin_addr {
            Some(addr) => Some(accept::bind("ADMIN_ADDR", addr).await?),
            None => None,
        };
        let metrics = Arc::new(Metrics::default());
        let https = Secure::bind(&config, &metrics).await?;
        let snapshot = config
            .state_dir
            .clone()
            .map(|folder| Snapshot::new(folder, limits(&config).bytes))
            .transpose()
            .context("STATE_DIR")?;
        let (redis, embedded) = choose_source(&config.source).await?;
        warn_of_open_doors(&config, https.as_ref().map_or(&listener, |https| &https.listener));
        Ok(Self {
            config,
            listener,
            https,
            metrics,
            admin,
            embedded,
            redis,
            snapshot,
            max_connections,
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

    /// Notified, a certificate that could not be ordered is ordered again at once, unless the CA
    /// itself named a time; `None` if certificates are not ours to order.
    pub fn order_again(&self) -> Option<Arc<Notify>> {
        match &self.https.as_ref()?.renewal {
            Renewal::Acme(acme) => Some(acme.again()),
            Renewal::Files(_) => None,
        }
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

    /// Serves until `stop`, then drains. Returns when all is closed, or the grace is over.
    pub async fn run(self, stop: CancellationToken) {
        let config = &self.config;
        let metrics = self.metrics;
        let health = Arc::new(Health::new(self.redis.to_string(), config.channels.clone()));
        let rooms = Arc::new(Rooms::new(limits(config), metrics.clone()));
        let most = backlog::most(config.limits.backlog);
        let backlog = Backlog::new(most, metrics.backlog_bytes.clone());
        let streams = Streams::new(metrics.connections.clone(), backlog.clone(), metrics.clone());
        let tasks = TaskTracker::new();

        // data
        if let Some(snapshot) = &self.snapshot {
            match snapshot.restore(&rooms).await {
                Ok(messages) => info!(messages, "history restored"),
                Err(error) => warn!("STATE_DIR: {error:#}; starting without the history"),
            }
        }
        let bounds = broker::Bounds::new(config.max_payload);
        let (queue, lanes) = broker::queue(config.lanes, bounds, metrics.clone());
        let link = Link::new(self.redis.clone(), health.clone());
        let subscription = Subscription {
            address: self.redis,
            patterns: config.channels.clone(),
            queue,
            health: health.clone(),
            metrics: metrics.clone(),
        };
        tasks.spawn(subscription.run(stop.clone()));
        for lane in lanes {
            tasks.spawn(fanout::run(lane, rooms.clone(), metrics.clone()));
        }
        tasks.spawn(stop.clone().run_until_cancelled_owned(fanout::sweep(rooms.clone())));
        let is_embedded = self.embedded.is_some();
        if let Some(embedded) = self.embedded {
            tasks.spawn(embedded.run(stop.clone()));
        }

        // control
        let auth = Arc::new(Auth::new(config));
        metrics.tokens_required.set(auth.wants_tokens().into());
        let expiry = Arc::new(Expiry::default());
        let shared = Shared {
            rooms: rooms.clone(),
            auth: auth.clone(),
            expiry: expiry.clone(),
            metrics: metrics.clone(),
            hello: config.hello,
            max_rooms: config.limits.rooms,
            max_events: config.limits.events,
            max_message: config.limits.message,
        };
        let (end, ended) = mpsc::unbounded_channel();
        let sessions = Sessions::new(
            self.max_connections,
            config.slow_after,
            backlog.clone(),
            end,
            metrics.clone(),
        );
        let expiring = stop.clone();
        tasks.spawn(async move { expiring.run_until_cancelled(expiry.run()).await });
        let max_packet = sockets::READ * config.limits.message;
        let service = sockets::service(Arc::new(shared));
        let engine =
            Engine::new(service, sessions, auth.clone(), ended, max_packet, metrics.clone());
        let certificates = self.https.as_ref().map(|https| https.redirect.certificates.clone());
        let hosts = |listener: &TcpListener| {
            let checked = http::hosts::are_checked(config, is_loopback(listener), is_embedded);
            checked.then(|| Hosts::new(config, certificates.clone(), metrics.clone()))
        };
        let served = self.https.as_ref().map_or(&self.listener, |https| &https.listener);
        let certificates = certificates.clone();
        let admin =
            Arc::new(Admin { health: health.clone(), metrics: metrics.clone(), certificates });
        let addresses = Addresses::new(config.limits.per_address, config.trusted_proxies.clone());
        let publishing = Publishing::new(config, auth.clone(), link, metrics.clone());
        let rear = Rear { engine, rooms: rooms.clone(), auth, publishing, admin: admin.clone() };
        let routes = http::public(config, rear, hosts(served));
        let routes = http::seated(routes, addresses.clone(), metrics.clone());
        let mut public = Accept {
            service: routes,
            tls: None,
            streams: streams.clone(),
            max_connections: self.max_connections,
            slow_after: config.slow_after,
            addresses: addresses.clone(),
            metrics: metrics.clone(),
        };
        let mut renewing = None;
        if let Some(Secure { listener, tls, redirect, renewal }) = self.https {
            renewing = Some(tokio::spawn(renewal.run(stop.clone())));
            let certificates = redirect.certificates.clone();
            let plain = http::plain(config, admin.clone(), redirect, hosts(&self.listener));
            let service = http::strict(public.service.clone(), certificates);
            let secure = Accept { service, tls: Some(tls), ..public.clone() };
            tasks.spawn(secure.run(listener, stop.clone()));
            public.service = plain;
        }
        tasks.spawn(public.run(self.listener, stop.clone()));
        // The admin listener answers until the end: it is where one looks during a drain.
        let closed = CancellationToken::new();
        if let Some(listener) = self.admin {
            let accept = Accept {
                service: http::admin::routes(admin, hosts(&listener)),
                tls: None,
                streams: Streams::new(Gauge::default(), backlog, metrics.clone()),
                max_connections: MAX_ADMIN_CONNECTIONS,
                slow_after: config.slow_after,
                addresses: Addresses::new(None, Vec::new()),
                metrics: Arc::default(),
            };
            tokio::spawn(accept.run(listener, closed.clone()));
        }

        stop.cancelled().await;
        health.drain();
        // What has arrived is handed on before anything is closed.
        let deadline = Instant::now() + config.grace;
        tasks.close();
        let _ = timeout_at(deadline, tasks.wait()).await;
        let written = self.snapshot.map(|snapshot| tokio::spawn(snapshot.write(rooms)));
        drain::finish(&streams, deadline).await;
        if let Some(written) = written {
            match timeout_at(deadline + drain::AFTER_GRACE, written).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) => warn!("STATE_DIR: {error:#}; the history is lost"),
                Ok(Err(_)) | Err(_) => warn!("STATE_DIR: not written in time; the history is lost"),
            }
        }
        // It removes what it has shown the CA and takes down what has become of the order; who
        // hangs there must not hold us up.
        if let Some(renewing) = renewing {
            let _ = timeout_at(deadline + drain::AFTER_GRACE, renewing).await;
        }
        closed.cancel();
    }
}

async fn choose_source(source: &Source) -> anyhow::Result<(RedisAddress, Option<Embedded>)> {
    let port = match source {
        Source::Redis(address) => return Ok((address.clone(), None)),
        Source::Detect(address) if broker::redis::answers(address).await => {
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

/// How much of the past is kept.
fn limits(config: &Config) -> Limits {
    let room = Bounds { count: config.history, age: config.history_ttl.as_millis() as u64 };
    let share = memory::limit().map_or(HISTORY_BYTES, |limit| limit / HISTORY_SHARE);
    Limits { room, bytes: config.history_bytes.unwrap_or(share.min(HISTORY_BYTES)) }
}
