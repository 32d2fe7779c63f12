//! Creates the parts of a bound server, connects them and starts the core tasks.

use std::{sync::Arc, time::Duration};

use axum::Router;
use tokio::{net::TcpListener, task::JoinHandle};

use super::{
    Server,
    core_tasks::CoreTasks,
    is_loopback,
    running::{Running, Stops},
    secure::Secure,
};
use crate::{
    auth::Auth,
    config::{Config, RedisAddress},
    conn::{
        accept::{Accept, Reserve},
        addresses::Addresses,
        backlog::{self, Backlog},
        connection::Connections,
        inbound::InboundBudget,
        rate::Rate,
    },
    engine::{self, Engine},
    health::Health,
    http::{self, AppState, Publishing, admin::Admin, hosts::Hosts},
    ingest::{self, Receiver, Sender},
    lanes::Lanes,
    memory,
    metrics::{Gauge, Metrics},
    outages::Outages,
    redis::{Link, Subscription},
    rooms::{
        HistoryLimits, Rooms, fanout, history::HistoryBounds, memberships::Memberships,
        snapshot::Snapshot,
    },
    socketio::{Events, Shared, expiry::Expiry},
    tls::certificates::Certificates,
};

/// Time limit for the CONNECT after the handshake, which takes one round trip.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The server reads packets of up to this many times the maximum size of a message, so that it can
/// answer that a message is too large. A larger one ends the connection.
const READ: usize = 2;
/// The most bytes of a POST; about Node's default.
const MAX_BODY: usize = 1 << 20;
/// Default bytes of the histories of all rooms, if there is enough memory.
const HISTORY_BYTES: usize = 32 << 20;
/// The histories take at most one part in this many of a container's memory limit.
const HISTORY_SHARE: usize = 8;
/// Maximum number of connections on the admin listener.
const MAX_ADMIN_CONNECTIONS: usize = 64;

/// Starts all tasks of a bound server. The history is restored first, so that no client joins a
/// room without it.
pub async fn assemble(server: Server) -> Running {
    let Server { config, auth, listener, https, metrics, admin, embedded, redis, .. } = server;
    let health = Arc::new(Health::new(redis.to_string(), config.channels.clone()));
    let lanes = Lanes::new(config.lanes);
    let bounds = ingest::QueueBounds::new(config.max_payload);
    let (queue, receivers) = ingest::queue(lanes.clone(), Arc::default(), bounds, metrics.clone());
    let progress = queue.progress();
    let rooms = Rooms::new(limits(&config), lanes, progress.clone(), metrics.clone());
    let rooms = Arc::new(rooms);
    let most = backlog::most(config.limits.backlog);
    let backlog = Backlog::new(most, metrics.backlog_bytes.clone());
    let inbound = InboundBudget::new(InboundBudget::bound(), metrics.inbound_bytes.clone());
    let streams = Connections::new(
        metrics.connections.clone(),
        backlog.clone(),
        inbound.clone(),
        Some(rate(&config)),
        metrics.clone(),
    );
    let (core, stops) = (CoreTasks::new(health.clone()), Stops::default());
    let (max_connections, files) = (server.max_connections, server.files);
    let is_embedded = embedded.is_some();
    let certificates = https.as_ref().map(|https| https.redirect.certificates.clone());
    let parts = Parts {
        config,
        auth,
        metrics,
        outages: Outages::new(health.watch_source()),
        health,
        rooms,
        memberships: Memberships::new(),
        backlog,
        inbound,
        max_connections,
        files,
        is_embedded,
        certificates,
    };
    let state = server.snapshot.as_ref().map(Snapshot::report);

    let mut serving = Vec::new();
    if let Some(mut snapshot) = server.snapshot {
        snapshot.restore(&parts.rooms).await;
        let run = snapshot.run(parts.rooms.clone(), stops.serving.clone());
        serving.push(core.spawn("state", &stops.serving, run));
    }
    let sweep = fanout::sweep(parts.rooms.clone());
    serving.push(core.spawn_endless("sweep", &stops.serving, sweep));
    let publish_host = parts.config.publish_host.clone();
    let link = Link::new(redis.clone(), publish_host, parts.health.clone());
    let source = parts.start_source(&core, &stops, redis, queue, receivers);
    let outages = parts.outages.clone().run();
    serving.push(core.spawn_endless("outages", &stops.serving, outages));
    let admin_state = Arc::new(Admin {
        health: parts.health.clone(),
        metrics: parts.metrics.clone(),
        queue: progress.clone(),
        certificates: parts.certificates.clone(),
        state,
        rooms: parts.rooms.clone(),
    });
    if let Some(embedded) = embedded {
        serving.push(core.spawn("embedded", &stops.serving, embedded.run(stops.serving.clone())));
    }
    let expiry = Arc::new(Expiry::default());
    serving.push(core.spawn_endless("expiry", &stops.serving, expiry.clone().run()));
    let engine = parts.engine(expiry);
    serving.push(core.spawn_endless("sessions", &stops.serving, engine.clone().sweep()));

    let hosts = parts.hosts(https.as_ref().map_or(&listener, |https| &https.listener));
    let public = parts.public_accept(engine, link, admin_state.clone(), streams.clone(), hosts);
    if let Some(listener) = admin {
        let accept = parts.admin_accept(admin_state.clone(), parts.hosts(&listener));
        core.spawn("accept-admin", &stops.admin, accept.run(listener, stops.admin.clone()));
    }
    let (accepting, renewal) =
        parts.start_public(&core, &stops, public, admin_state, listener, https);
    let (health, grace) = (parts.health, parts.config.grace);
    Running { core, stops, health, streams, progress, grace, accepting, source, serving, renewal }
}

/// What the parts share while they are connected.
struct Parts {
    config: Config,
    auth: Arc<Auth>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    outages: Arc<Outages>,
    rooms: Arc<Rooms>,
    memberships: Arc<Memberships>,
    backlog: Arc<Backlog>,
    inbound: Arc<InboundBudget>,
    max_connections: usize,
    files: usize,
    is_embedded: bool,
    certificates: Option<Arc<Certificates>>,
}

impl Parts {
    /// The host names that a listener answers under; `None` if it does not check them.
    fn hosts(&self, listener: &TcpListener) -> Option<Hosts> {
        let Self { config, certificates, metrics, .. } = self;
        let checked = http::hosts::are_checked(config, is_loopback(listener), self.is_embedded);
        checked.then(|| Hosts::new(config, certificates.clone(), metrics.clone()))
    }

    /// Starts the subscription and the lanes, which carry its messages to the rooms.
    fn start_source(
        &self,
        core: &CoreTasks,
        stops: &Stops,
        redis: RedisAddress,
        queue: Sender,
        receivers: Vec<Receiver>,
    ) -> Vec<JoinHandle<()>> {
        let Self { config, metrics, health, rooms, .. } = self;
        let subscription = Subscription::new(
            redis,
            config.publish_host.clone(),
            config.channels.clone(),
            queue,
            health.clone(),
            metrics.clone(),
        );
        let subscription = subscription.run(stops.source.clone());
        let mut tasks = vec![core.spawn("subscription", &stops.source, subscription)];
        // A lane ends after the subscription has ended and its queue is empty.
        tasks.extend(receivers.into_iter().map(|lane| {
            core.spawn("lane", &stops.source, fanout::run(lane, rooms.clone(), metrics.clone()))
        }));
        tasks
    }

    /// Creates the engine with the events of sockets.
    fn engine(&self, expiry: Arc<Expiry>) -> Arc<Engine> {
        let Self { config, auth, metrics, .. } = self;
        let (limits, timing) = (&config.limits, config.timing);
        let shared = Shared {
            rooms: self.rooms.clone(),
            memberships: self.memberships.clone(),
            outages: self.outages.clone(),
            auth: auth.clone(),
            expiry,
            metrics: metrics.clone(),
            hello: config.hello,
            max_rooms: limits.rooms,
            max_events: limits.events,
            max_message: limits.message,
        };
        let settings = engine::EngineSettings {
            ping_interval: timing.ping_interval,
            ping_timeout: timing.ping_timeout,
            connect_timeout: CONNECT_TIMEOUT,
            slow_after: timing.slow_after,
            max_packet: READ * limits.message,
            max_body: MAX_BODY.max(READ * limits.message),
            max_polling: self.max_connections,
            max_polling_per_address: limits.per_address,
            rate: rate(config),
        };
        Engine::new(settings, Events(Arc::new(shared)), self.backlog.clone(), metrics.clone())
    }

    /// Creates the accept loop of the public listener, with its routes and limits.
    fn public_accept(
        &self,
        engine: Arc<Engine>,
        link: Link,
        admin: Arc<Admin>,
        streams: Arc<Connections>,
        hosts: Option<Hosts>,
    ) -> Accept<Router> {
        let Self { config, auth, metrics, .. } = self;
        let publishing = Publishing::new(config, auth.clone(), link, metrics.clone());
        let rear = AppState {
            engine,
            rooms: self.rooms.clone(),
            outages: self.outages.clone(),
            auth: auth.clone(),
            publishing,
            admin,
        };
        let routes = http::public(config, rear, hosts);
        let addresses = Addresses::new(
            config.limits.per_address,
            Some(rate(config)),
            config.trusted_proxies.clone(),
        );
        Accept {
            service: http::with_ip_permits(routes, addresses.clone(), metrics.clone()),
            tls: None,
            streams,
            max_connections: self.max_connections,
            slow_after: config.timing.slow_after,
            addresses,
            metrics: metrics.clone(),
            files: self.files,
            errors: metrics.accept_errors.clone(),
            reserve: None,
        }
    }

    /// Creates the accept loop of the admin listener. Its connections count neither in the public
    /// metrics nor in the public limits.
    fn admin_accept(&self, admin: Arc<Admin>, hosts: Option<Hosts>) -> Accept<Router> {
        let (gauge, backlog) = (Gauge::default(), self.backlog.clone());
        Accept {
            service: http::admin::routes(admin, hosts),
            tls: None,
            streams: Connections::new(
                gauge,
                backlog,
                self.inbound.clone(),
                None,
                self.metrics.clone(),
            ),
            max_connections: MAX_ADMIN_CONNECTIONS,
            slow_after: self.config.timing.slow_after,
            addresses: Addresses::new(None, None, Vec::new()),
            metrics: Arc::default(),
            files: self.files,
            errors: self.metrics.accept_errors.clone(),
            reserve: Some(Reserve::default()),
        }
    }

    /// Starts the public listeners and the renewal of the certificate. With HTTPS on, the plain
    /// listener serves redirects only.
    fn start_public(
        &self,
        core: &CoreTasks,
        stops: &Stops,
        mut public: Accept<Router>,
        admin: Arc<Admin>,
        listener: TcpListener,
        https: Option<Secure>,
    ) -> (Vec<JoinHandle<()>>, Option<JoinHandle<()>>) {
        let stop = &stops.accepting;
        let (mut accepting, mut renewing) = (Vec::new(), None);
        if let Some(Secure { listener: secure, tls, redirect, renewal }) = https {
            renewing = Some(core.spawn("certificates", stop, renewal.run(stop.clone())));
            let service = http::with_hsts(public.service.clone(), redirect.certificates.clone());
            let accept = Accept { service, tls: Some(tls), ..public.clone() };
            accepting.push(core.spawn("accept-https", stop, accept.run(secure, stop.clone())));
            public.service =
                http::redirect_routes(&self.config, admin, redirect, self.hosts(&listener));
        }
        accepting.push(core.spawn("accept", stop, public.run(listener, stop.clone())));
        (accepting, renewing)
    }
}

/// What one session may send. A burst is large enough to connect, and to join and leave all rooms at
/// once.
fn rate(config: &Config) -> Rate {
    let limits = &config.limits;
    Rate { per_second: limits.events, burst: limits.events.max(2 * limits.rooms).saturating_add(1) }
}

/// The limits of the histories: messages and age for each room, bytes for all of them.
pub fn limits(config: &Config) -> HistoryLimits {
    let age = config.history_ttl.as_millis() as u64;
    let last_age = age.max(config.last_ttl.as_millis() as u64);
    let room = HistoryBounds { count: config.history, age, last_age };
    let share = memory::limit().map_or(HISTORY_BYTES, |limit| limit / HISTORY_SHARE);
    HistoryLimits { room, bytes: config.history_bytes.unwrap_or(share.min(HISTORY_BYTES)) }
}
