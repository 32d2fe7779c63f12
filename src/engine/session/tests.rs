//! Sessions without a network: heartbeats and time limits on a clock that the tests move, upgrades,
//! and what is left at the end.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use http::Request;
use tokio::time::advance;

use super::{clock::UNFINISHED, *};
use crate::{
    conn::{
        backlog::Backlog,
        caller::Caller,
        connection::{ConnectionGuard, Connections},
        inbound::InboundBudget,
        rate::Rate,
    },
    engine::{Application, EngineSettings, packet::Protocol, payload},
    metrics::{Gauge, Metrics},
};

const PING_INTERVAL: Duration = Duration::from_secs(25);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

/// Accepts every client, and counts them.
struct Open(Arc<AtomicU64>);

/// A client, which is counted while it is in the namespace.
struct Counted(Arc<AtomicU64>);

impl Application for Open {
    fn open(&self, _: &Arc<Session>, _: &Parts) -> Arc<dyn Client> {
        Arc::new(Counted(self.0.clone()))
    }
}

impl Client for Counted {
    fn connect(&self, _: Option<&str>) -> Result<(), String> {
        Ok(())
    }

    fn connected(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    fn event(&self, _: ClientEvent) {}

    fn disconnected(&self) {
        self.0.store(0, Relaxed);
    }
}

/// An engine, its metrics, and how many clients are in the namespace.
struct Site {
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    inside: Arc<AtomicU64>,
}

fn site() -> Site {
    let (metrics, inside) = (Arc::new(Metrics::default()), Arc::new(AtomicU64::new(0)));
    let settings = EngineSettings {
        ping_interval: PING_INTERVAL,
        ping_timeout: PING_TIMEOUT,
        connect_timeout: CONNECT_TIMEOUT,
        // These sessions have no socket, so their frames wait for ever.
        slow_after: Duration::from_secs(3600),
        max_packet: 1000,
        max_body: 1000,
        max_polling: 10,
        max_polling_per_address: None,
        rate: Rate { per_second: 100, burst: 100 },
    };
    let backlog = Backlog::new(1 << 20, Gauge::default());
    let engine = Engine::new(settings, Open(inside.clone()), backlog, metrics.clone());
    Site { engine, metrics, inside }
}

impl Site {
    fn open(&self, protocol: Protocol, transport: Transport) -> Arc<Session> {
        let (parts, ()) = Request::new(()).into_parts();
        let format = Format { protocol, is_base64: false };
        let place = (transport == Transport::Polling)
            .then(|| self.engine.place([127, 0, 0, 1].into()).expect("a place"));
        let session = Session::open(&self.engine, format, place, &parts);
        session.enter_by_itself();
        session
    }

    /// Lets a time pass, a second at a time, as the sweep sees it.
    async fn pass(&self, session: &Session, time: Duration) {
        for _ in 0..time.as_secs() {
            advance(SECOND).await;
            session.tick(self.engine.now());
        }
    }
}

/// A client without limits of its own.
fn caller() -> Caller {
    let backlog = Backlog::new(1 << 20, Gauge::default());
    let inbound = InboundBudget::new(usize::MAX, Gauge::default());
    let connections = Connections::new(Gauge::default(), backlog, inbound, None, Arc::default());
    let guard = ConnectionGuard::new(([127, 0, 0, 1], 1).into(), &connections);
    Caller::alone(guard.connection())
}

fn send(session: &Session, packet: &str) -> Outcome {
    session.seen();
    let packet = payload::packet(packet.as_bytes(), true, session.format().protocol);
    session.receive(packet.into_iter(), &caller())
}

/// The packets that wait for the client.
fn waiting(session: &Session) -> Vec<String> {
    let frames = session.writer.take(usize::MAX);
    let packets = frames.iter().flat_map(frame::split);
    packets.map(|(_, packet)| String::from_utf8_lossy(&packet).into_owned()).collect()
}

const COMBINATIONS: [(Protocol, Transport); 4] = [
    (Protocol::V3, Transport::Polling),
    (Protocol::V3, Transport::WebSocket),
    (Protocol::V4, Transport::Polling),
    (Protocol::V4, Transport::WebSocket),
];

#[tokio::test(start_paused = true)]
async fn a_client_that_is_silent_after_a_heartbeat_is_ended() {
    for (protocol, transport) in COMBINATIONS {
        let site = site();
        let session = site.open(protocol, transport);
        assert_eq!(send(&session, "40"), Outcome::Handled);
        waiting(&session);
        site.pass(&session, PING_INTERVAL + SECOND).await;
        let expected: &[&str] = if protocol == Protocol::V4 { &["2"] } else { &[] };
        assert_eq!(waiting(&session), expected, "{protocol:?} {transport:?}");
        site.pass(&session, PING_TIMEOUT - 2 * SECOND).await;
        assert_eq!(session.ended(), None, "{protocol:?} {transport:?}");
        site.pass(&session, 3 * SECOND).await;
        assert_eq!(session.ended(), Some(Close::PingTimeout), "{protocol:?} {transport:?}");
        assert_eq!(site.metrics.closed(Close::PingTimeout).get(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn any_byte_of_the_client_counts_as_life() {
    for (protocol, transport) in COMBINATIONS {
        let site = site();
        let session = site.open(protocol, transport);
        send(&session, "40");
        for _ in 0..20 {
            site.pass(&session, PING_TIMEOUT - 2 * SECOND).await;
            assert_eq!(session.ended(), None, "{protocol:?} {transport:?}");
            // Half a packet is life, too.
            session.seen();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_of_version_3_is_answered_its_own_heartbeats() {
    let site = site();
    let session = site.open(Protocol::V3, Transport::WebSocket);
    assert_eq!(waiting(&session), ["40"]);
    send(&session, "2");
    send(&session, "2probe");
    assert_eq!(waiting(&session), ["3", "3probe"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_connect_or_has_left_is_ended() {
    let site = site();
    let session = site.open(Protocol::V4, Transport::Polling);
    site.pass(&session, CONNECT_TIMEOUT + SECOND).await;
    assert_eq!(session.ended(), Some(Close::NotConnected));

    let site = self::site();
    let session = site.open(Protocol::V4, Transport::Polling);
    send(&session, "40");
    site.pass(&session, CONNECT_TIMEOUT + SECOND).await;
    assert_eq!((session.ended(), site.inside.load(Relaxed)), (None, 1));
    send(&session, "41");
    assert_eq!(site.inside.load(Relaxed), 0);
    site.pass(&session, CONNECT_TIMEOUT + SECOND).await;
    assert_eq!(session.ended(), Some(Close::NotConnected));
}

#[tokio::test(start_paused = true)]
async fn a_message_without_its_attachments_has_a_time_limit() {
    let site = site();
    let session = site.open(Protocol::V4, Transport::Polling);
    send(&session, "40");
    send(&session, r#"451-["channel",{"_placeholder":true,"num":0}]"#);
    session.set_unfinished(false);
    site.pass(&session, Duration::from_millis(UNFINISHED) + 2 * SECOND).await;
    assert_eq!(session.ended(), Some(Close::BadPacket));
}

#[tokio::test]
async fn repeated_packets_are_counted_across_connects() {
    let site = site();
    let session = site.open(Protocol::V4, Transport::WebSocket);
    let mut outcome = Outcome::Handled;
    for number in 0..2000 {
        outcome = send(&session, if number % 2 == 0 { "40" } else { "41" });
        if outcome != Outcome::Handled {
            break;
        }
    }
    assert!(matches!(outcome, Outcome::End(Close::TooFast, _)), "{outcome:?}");
}

#[tokio::test]
async fn polls_and_probes_exclude_what_the_protocol_excludes() {
    let site = site();
    let session = site.open(Protocol::V4, Transport::Polling);
    let poll = session.begin_poll().expect("the first poll");
    assert_eq!(session.begin_poll().err(), Some(RouteError::Overlap));
    drop(poll);
    session.begin_probe().expect("the first WebSocket");
    assert_eq!(session.begin_probe().err(), Some(RouteError::Upgraded));
    session.end_probe();
    session.begin_probe().expect("another WebSocket");
    drop(session.begin_poll().expect("it is still polled"));
    session.end(Close::Client);
    assert_eq!(session.begin_poll().err(), Some(RouteError::Ended));
    assert_eq!(session.begin_probe().err(), Some(RouteError::Ended));
}

#[tokio::test]
async fn nothing_is_left_of_sessions_that_have_ended() {
    let site = site();
    for (protocol, transport) in COMBINATIONS {
        let session = site.open(protocol, transport);
        send(&session, "40");
        session.push(&frame::text(&[b"4", &[b'x'; 1000]])).expect("it may wait");
        session.end(Close::Client);
        session.dismantle();
        session.dismantle();
        // The end of a polled session is seen to by a task.
        tokio::task::yield_now().await;
        assert_eq!((session.waiting(), site.inside.load(Relaxed)), (0, 0));
        assert!(site.engine.find(session.sid().as_str()).is_none());
        assert_eq!(site.metrics.sessions(transport).get(), 0, "{protocol:?} {transport:?}");
        assert_eq!(Arc::strong_count(&session), 1, "nothing else holds it");
    }
}

#[tokio::test]
async fn a_session_in_order_ends_with_its_last_word() {
    let site = site();
    let session = site.open(Protocol::V4, Transport::Polling);
    send(&session, "40");
    waiting(&session);
    session.disconnect(Close::Expired);
    session.send(&frame::text(&[b"4too late"]));
    // The end comes in an answer of its own.
    assert_eq!(waiting(&session), ["41"]);
    assert_eq!(waiting(&session), ["1"]);
    session.finish(Close::Client);
    assert_eq!(session.ended(), Some(Close::Expired));
}
