//! A viewer: a client in the namespace, from CONNECT to disconnect, with the rooms it has joined.
//!
//! A client can leave the namespace and connect again on the same session, with the same id. So
//! each CONNECT creates a viewer of its own, with its own phase. A viewer that is gone cannot join
//! rooms any more.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use serde::Serialize;
use socketioxide::extract::SocketRef;
use tracing::debug;

use super::{
    Shared,
    arguments::{self, Options},
    conflate::{Latest, MaxRate},
    expiry::Alarm,
    rate_limit::{RateLimit, Verdict},
    request::{Refusal, Request},
    session::Session,
    source::SourceOutlet,
    subscriber::SocketSubscriber,
};
use crate::{
    auth::{Grant, WATCHING},
    clock::now,
    glob,
    metrics::Close,
    outages,
    rooms::{Channel, JoinReply, Member, Subscriber, history::ReplayRequest},
};

/// How long before its token expires a viewer is notified, in ms.
const NOTICE: u64 = 60_000;

/// The kind of a request, by the name of its event.
#[derive(Clone, Copy, Debug)]
pub enum Ask {
    /// Event `channel`.
    Join,
    /// Event `leave`.
    Leave,
    /// Event `channels`.
    Channels,
    /// Event `auth`.
    Renew,
    /// Any other event.
    Unknown,
}

/// A client in the namespace.
///
/// A viewer is created by the connect middleware ([`new`](Self::new)) and queues requests until the
/// connect handler has run ([`connected`](Self::connected)); from then on it answers them at once.
/// It ends when the socket disconnects, its token expires or its session is ended
/// ([`gone`](Self::gone)), and then leaves all rooms. One lock guards all its state, so requests
/// are answered one after the other.
pub struct Viewer {
    shared: Arc<Shared>,
    session: Arc<Session>,
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    rate_limit: RateLimit,
    rooms: HashMap<Arc<str>, Membership>,
    grant: Grant,
    /// The client has been notified that the grant expires soon.
    noticed: bool,
    /// The next alarm, if the grant expires at all.
    alarm: Option<Alarm>,
    /// Set when a room has been joined with `meta`.
    source: Option<Arc<SourceOutlet>>,
}

enum Phase {
    /// The client may have received the answer to its CONNECT, but the engine does not allow emits
    /// yet. Requests are queued. This phase lasts for microseconds.
    Connecting(Vec<(Ask, Request)>),
    Connected(SocketRef),
    Gone,
}

#[derive(Serialize)]
struct Left<'a> {
    room: &'a str,
}

#[derive(Serialize)]
struct Renewed {
    /// The rooms that were left because the new token does not allow them.
    left: Vec<Arc<str>>,
}

#[derive(Serialize)]
struct Channels {
    channels: Vec<Channel>,
    /// The list was cut: there are more channels.
    more: bool,
}

struct Membership {
    member: Member,
    subscriber: Arc<SocketSubscriber>,
}

impl Viewer {
    /// A viewer that is connecting on `session`; `grant` is what it may do.
    pub fn new(shared: Arc<Shared>, session: Arc<Session>, grant: Grant) -> Arc<Self> {
        let Shared { max_rooms, max_events, .. } = *shared;
        // A burst is large enough to join and leave all rooms at once.
        let rate_limit = RateLimit::new(max_events, max_events.max(2 * max_rooms), Instant::now());
        let phase = Phase::Connecting(Vec::new());
        let rooms = HashMap::new();
        let state =
            State { phase, rate_limit, rooms, grant, noticed: false, alarm: None, source: None };
        Arc::new(Self { shared, session, state: state.into() })
    }

    /// The session that carries it.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The engine now allows emits: answers the queued requests, in order.
    pub fn connected(self: &Arc<Self>, socket: &SocketRef) {
        let mut state = self.lock();
        if let Phase::Connecting(early) = &mut state.phase {
            let early = mem::take(early);
            state.phase = Phase::Connected(socket.clone());
            self.shared.metrics.sockets.inc();
            self.set_alarm(&mut state);
            for (ask, request) in early {
                self.answer(&mut state, socket, ask, request);
            }
        }
    }

    /// Answers a request, or queues it while the viewer is connecting. Requests over the rate limit
    /// or too large are refused; far over the rate limit, the viewer is disconnected.
    pub fn request(self: &Arc<Self>, socket: &SocketRef, ask: Ask, request: Request) {
        let mut state = self.lock();
        match (state.rate_limit.event(Instant::now()), &mut state.phase) {
            (_, Phase::Gone) => {}
            (Verdict::Excessive, _) => {
                drop(state);
                self.end(Close::TooFast);
            }
            (Verdict::TooFast, _) => {
                let most = self.shared.max_events;
                let message = format!("a socket may send {most} events a second; slow down");
                self.refuse(socket, request, Refusal::new("too_fast", message));
            }
            (Verdict::Answer, _) if request.size > self.shared.max_message => {
                let most = self.shared.max_message;
                let message = format!("a message may have {most} bytes at most (MAX_MESSAGE)");
                self.refuse(socket, request, Refusal::new("too_large", message));
            }
            (Verdict::Answer, Phase::Connecting(early)) if early.len() < self.shared.max_rooms => {
                early.push((ask, request));
            }
            (Verdict::Answer, Phase::Connecting(_)) => {
                let refusal = Refusal::new("too_early", "wait for `connect` before more requests");
                self.refuse(socket, request, refusal);
            }
            (Verdict::Answer, Phase::Connected(_)) => {
                self.answer(&mut state, socket, ask, request);
            }
        }
    }

    /// Leaves all rooms and ends the session, for `reason`.
    pub fn end(&self, reason: Close) {
        self.gone();
        self.session.end(reason);
    }

    /// Ends the viewer: leaves all rooms and joins none again. Calling it twice does no harm.
    pub fn gone(&self) {
        let mut state = self.lock();
        if matches!(mem::replace(&mut state.phase, Phase::Gone), Phase::Connected(_)) {
            self.shared.metrics.sockets.dec();
        }
        state.alarm = None;
        state.source = None;
        for (room, membership) in state.rooms.drain() {
            membership.subscriber.close();
            self.shared.rooms.leave(&room, membership.member);
        }
    }

    /// Notifies the client that its token expires soon or, if it has expired, disconnects it.
    /// Called by the alarm.
    pub fn check_token_expiry(self: &Arc<Self>) {
        let mut state = self.lock();
        let (Phase::Connected(socket), Some(ends)) = (&state.phase, state.grant.ends) else {
            return;
        };
        let socket = socket.clone();
        let left = ends.saturating_sub(now());
        if left > 0 {
            if left <= NOTICE && !mem::replace(&mut state.noticed, true) {
                let message = format!(
                    "the token expires in {} s: emit `auth` with {{token: a new one}}",
                    left.div_ceil(1000)
                );
                let _ = socket.emit("error", &Refusal::new("expiring", message));
            }
            return self.set_alarm(&mut state);
        }
        drop(state);
        let message = "the token has expired: connect again with a new one";
        let _ = socket.emit("error", &Refusal::new("expired", message));
        self.gone();
        self.session.leave(Close::Expired);
        // The engine sends queued packets first. If it cannot queue the disconnect, the session is
        // ended at once.
        if socket.disconnect().is_err() {
            self.session.end(Close::Expired);
        }
    }

    /// Sets the alarm for the notice or, after that, for the expiry of the token.
    fn set_alarm(self: &Arc<Self>, state: &mut State) {
        state.alarm = state.grant.ends.map(|ends| {
            let time = if state.noticed { ends } else { ends.saturating_sub(NOTICE) };
            self.shared.expiry.at(time, Arc::downgrade(self))
        });
    }

    fn answer(self: &Arc<Self>, state: &mut State, socket: &SocketRef, ask: Ask, request: Request) {
        let refused = match ask {
            Ask::Join => match self.admit(state, &request) {
                Ok((room, options)) => return self.join(state, socket, request, room, options),
                Err(refusal) => refusal,
            },
            Ask::Leave => match arguments::room(&request.args) {
                Ok(room) => return self.leave(state, request, &room),
                Err(refusal) => refusal,
            },
            Ask::Channels => match arguments::pattern(&request.args) {
                Ok(pattern) => {
                    let asked = |room: &str| {
                        glob::matches(pattern.as_bytes(), room.as_bytes())
                            && state.grant.may_join(room)
                    };
                    let (channels, more) = self.shared.rooms.channels(asked, now());
                    return request.accept(&self.session, Channels { channels, more });
                }
                Err(refusal) => refusal,
            },
            Ask::Renew => match self.renew(state, &request) {
                Ok(left) => return request.accept(&self.session, Renewed { left }),
                Err(refusal) => refusal,
            },
            Ask::Unknown => {
                let message = format!(
                    "event `{}` is unknown; use channel, leave, channels or auth",
                    request.event
                );
                Refusal::new("unsupported", message)
            }
        };
        self.refuse(socket, request, refused);
    }

    fn refuse(&self, socket: &SocketRef, request: Request, refusal: Refusal) {
        debug!(sid = %socket.id, code = refusal.code, "refused a request");
        self.shared.metrics.refusals(refusal.code).inc();
        request.refuse(&self.session, socket, refusal);
    }

    fn admit(&self, state: &State, request: &Request) -> Result<(Arc<str>, Options), Refusal> {
        let room = arguments::room(&request.args)?;
        let options = Options::read(request.args.get(1))?;
        if !state.grant.may_join(&room) {
            let message = "the token does not allow this room; use one that does";
            return Err(Refusal::new("forbidden", message));
        }
        let most = self.shared.max_rooms;
        if state.rooms.len() >= most && !state.rooms.contains_key(&room) {
            let message = format!("a socket may be in {most} rooms at most; leave one first");
            return Err(Refusal::new("too_many_rooms", message));
        }
        Ok((room, options))
    }

    fn join(
        self: &Arc<Self>,
        state: &mut State,
        socket: &SocketRef,
        request: Request,
        room: Arc<str>,
        options: Options,
    ) {
        let rooms = &self.shared.rooms;
        let source = options.meta.then(|| self.source(state, socket));
        let socket_subscriber = SocketSubscriber::new(socket.clone(), self.clone(), source.clone());
        let socket_subscriber = Arc::new(socket_subscriber);
        let mut subscriber: Arc<dyn Subscriber> = socket_subscriber.clone();
        if options.latest {
            subscriber = Latest::new(subscriber, self.session.clone());
        }
        if let Some(tick) = options.tick {
            subscriber = MaxRate::new(subscriber, tick);
        }
        let before = state.rooms.remove(&room);
        let welcome = |welcome: &JoinReply<'_>, messages| {
            // A second join of the same room. If the client requested a replay, messages that are
            // still on their way to the previous subscriber are part of it, so that subscriber is
            // closed. Otherwise they arrive after this answer.
            if let Some(before) =
                before.as_ref().filter(|_| options.wish != ReplayRequest::default())
            {
                before.subscriber.close();
            }
            request.accept(&self.session, welcome);
            socket_subscriber.replay(&room, messages);
        };
        let again = before.as_ref().map(|before| before.member);
        let others = (self.shared.hello && again.is_none()).then(|| rooms.members(&room));
        let member = rooms.join(&room, again, subscriber, &options.wish, welcome);
        others.iter().flat_map(|others| others.values()).for_each(|other| other.hello());
        state.rooms.insert(room, Membership { member, subscriber: socket_subscriber });
        // After the answer: emits an outage that has already been announced to others.
        source.iter().for_each(outages::enter);
    }

    /// The outlet for the event `source`; the first join with `meta` creates it.
    fn source(&self, state: &mut State, socket: &SocketRef) -> Arc<SourceOutlet> {
        let new =
            || SourceOutlet::new(socket.clone(), self.session.clone(), self.shared.outages.told());
        state.source.get_or_insert_with(new).clone()
    }

    /// Leaves a room. Leaving a room that the viewer is not in succeeds as well.
    fn leave(&self, state: &mut State, request: Request, room: &str) {
        self.take_out(state, room);
        request.accept(&self.session, Left { room });
    }

    fn take_out(&self, state: &mut State, room: &str) {
        if let Some(membership) = state.rooms.remove(room) {
            membership.subscriber.close();
            self.shared.rooms.leave(room, membership.member);
        }
    }

    /// Replaces the viewer's token, and leaves the rooms that the new one does not allow. Returns
    /// these rooms. If the new token is invalid, the old one stays in force.
    fn renew(
        self: &Arc<Self>,
        state: &mut State,
        request: &Request,
    ) -> Result<Vec<Arc<str>>, Refusal> {
        let token = arguments::token(&request.args)?;
        let grant = self.shared.auth.viewer(Some(token), now()).map_err(|problem| {
            self.shared.metrics.tokens_refused.inc();
            problem.log(WATCHING);
            Refusal::new("bad_token", problem.to_string())
        })?;
        let forbidden = |room: &&Arc<str>| !grant.may_join(room);
        let left: Vec<_> = state.rooms.keys().filter(forbidden).cloned().collect();
        left.iter().for_each(|room| self.take_out(state, room));
        state.grant = grant;
        state.noticed = false;
        self.set_alarm(state);
        Ok(left)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
