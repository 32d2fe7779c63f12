//! How a session's frames get to its client: by polls, by a WebSocket, or by polls with a WebSocket
//! beside them, to which the client may upgrade.

use std::{net::IpAddr, sync::Arc};

use super::Session;
use crate::{conn::socket::Socket, engine::polled::PolledPlace, metrics::Transport};

/// How the session's frames get to the client.
pub struct Route {
    /// The transport that carries them.
    pub transport: Transport,
    has_poll: bool,
    has_post: bool,
    probe: Probe,
    /// The place among the polled sessions.
    pub place: Option<Box<PolledPlace>>,
}

impl Route {
    /// A transport, without a poll and without a probe.
    pub fn new(transport: Transport, place: Option<PolledPlace>) -> Self {
        Self {
            transport,
            has_poll: false,
            has_post: false,
            probe: Probe::None,
            place: place.map(Box::new),
        }
    }
}

/// A WebSocket beside the polls of its session.
#[derive(Clone, Copy, PartialEq)]
pub enum Probe {
    /// There is none.
    None,
    /// It is open.
    Open,
    /// Its PING was answered. The client is about to upgrade, and waits for the end of its poll.
    Answered,
}

/// Why a poll, a POST or a WebSocket is refused.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RouteError {
    /// The session has ended.
    Ended,
    /// The session is carried by a WebSocket, or another WebSocket is about to do so.
    Upgraded,
    /// Another request of this kind is under way already; the session ends.
    Overlap,
}

impl Session {
    pub(in crate::engine) fn transport(&self) -> Transport {
        self.route.lock().transport
    }

    /// The address of the client, as long as the session is polled.
    pub(in crate::engine) fn polled_from(&self) -> Option<IpAddr> {
        self.route.lock().place.as_ref().map(|place| place.address())
    }

    /// Gives the place among the polled sessions back.
    pub(in crate::engine) fn leave_polls(&self) {
        let place = self.route.lock().place.take();
        drop(place);
    }

    /// A poll begins. It ends when the guard is dropped.
    ///
    /// # Errors
    /// If the session cannot be polled.
    pub(in crate::engine) fn begin_poll(self: &Arc<Self>) -> Result<Poll, RouteError> {
        let mut route = self.route.lock();
        if self.ended().is_some() {
            return Err(RouteError::Ended);
        }
        if route.transport == Transport::WebSocket {
            return Err(RouteError::Upgraded);
        }
        if route.has_poll {
            return Err(RouteError::Overlap);
        }
        route.has_poll = true;
        drop(route);
        self.writer.set_polled(true);
        Ok(Poll(self.clone()))
    }

    /// A POST begins. It ends when the guard is dropped. Packets of two POSTs at once would have no
    /// order.
    ///
    /// # Errors
    /// If the session takes no POST.
    pub(in crate::engine) fn begin_post(self: &Arc<Self>) -> Result<Post, RouteError> {
        let mut route = self.route.lock();
        if route.transport == Transport::WebSocket {
            return Err(RouteError::Upgraded);
        }
        if std::mem::replace(&mut route.has_post, true) {
            return Err(RouteError::Overlap);
        }
        Ok(Post(self.clone()))
    }

    pub(in crate::engine) fn probe(&self) -> Probe {
        self.route.lock().probe
    }

    /// A WebSocket opens beside the polls.
    ///
    /// # Errors
    /// If the session has ended, or a WebSocket is there already.
    pub(in crate::engine) fn begin_probe(&self) -> Result<(), RouteError> {
        let mut route = self.route.lock();
        if self.ended().is_some() {
            return Err(RouteError::Ended);
        }
        if route.transport == Transport::WebSocket || route.probe != Probe::None {
            return Err(RouteError::Upgraded);
        }
        route.probe = Probe::Open;
        Ok(())
    }

    /// The PING of the probe was answered: a poll that waits ends, so that the client can upgrade.
    pub(in crate::engine) fn answer_probe(&self) {
        self.route.lock().probe = Probe::Answered;
        self.writer.changed().notify_waiters();
    }

    /// The WebSocket beside the polls is gone. The session goes on by polling.
    pub(in crate::engine) fn end_probe(&self) {
        self.route.lock().probe = Probe::None;
    }

    /// The client upgrades: what waits, and all that comes later, goes over the WebSocket.
    ///
    /// # Errors
    /// If the session has ended; the socket is closed.
    pub(in crate::engine) fn upgrade(&self, socket: Socket) -> Result<(), RouteError> {
        let mut route = self.route.lock();
        if self.ended().is_some() {
            return Err(RouteError::Ended);
        }
        self.engine.metrics.sessions(Transport::Polling).dec();
        self.engine.metrics.sessions(Transport::WebSocket).inc();
        let polled = std::mem::replace(&mut *route, Route::new(Transport::WebSocket, None));
        drop(route);
        drop(polled);
        self.writer.attach(socket);
        Ok(())
    }
}

/// A poll under way.
pub(in crate::engine) struct Poll(Arc<Session>);

impl Drop for Poll {
    fn drop(&mut self) {
        let mut route = self.0.route.lock();
        if route.transport == Transport::Polling {
            route.has_poll = false;
            drop(route);
            self.0.writer.set_polled(false);
        }
    }
}

/// A POST under way.
pub(in crate::engine) struct Post(Arc<Session>);

impl Drop for Post {
    fn drop(&mut self) {
        self.0.route.lock().has_post = false;
    }
}
