//! A viewer: a client with the rooms it has joined.
//!
//! A client can leave the namespace and connect again on the same session. The viewer stays the same;
//! its rooms, its token and its alarm are those of the last CONNECT.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use serde::Serialize;
use tracing::debug;

use super::{
    Presented, Shared,
    arguments::{self, Options},
    conflate::{Latest, MaxRate},
    expiry::{Alarm, Expires},
    request::{Answer, Refusal, Request},
    source::SourceOutlet,
    subscriber::SocketSubscriber,
};
use crate::{
    auth::{BadToken, Grant, WATCHING},
    clock::now,
    engine::{
        Client,
        session::{ClientEvent, Session, Unacceptable},
    },
    glob::Pattern,
    message::Gap,
    metrics::Close,
    outages,
    rooms::{
        Channel, JoinReply, Joined, Member, MemberSnapshot, Subscriber,
        cursor::ReplayCursor,
        history::ReplayRequest,
        memberships::{self, Reservation},
    },
};

mod replays;

use replays::Replays;

/// Requests for the list of channels that one client may wait for.
const MAX_LISTINGS: u8 = 4;
/// How long before its token expires a viewer is notified, in ms.
const NOTICE: u64 = 60_000;

/// The client of one session.
///
/// The engine creates a viewer with the session, and calls it for one packet after the other. The
/// viewer is in the namespace from [`connected`](Client::connected) to
/// [`disconnected`](Client::disconnected), when it leaves all rooms. One lock guards all its state:
/// the alarm of its token comes from another task.
pub struct Viewer {
    me: Weak<Self>,
    shared: Arc<Shared>,
    session: Arc<Session>,
    /// What the token in the handshake allows.
    presented: Presented,
    state: Mutex<ViewerState>,
}

#[derive(Default)]
struct ViewerState {
    /// What the client may do; `None` outside the namespace.
    grant: Option<Grant>,
    rooms: HashMap<Arc<str>, Membership>,
    replays: Replays,
    /// The client has been notified that the grant expires soon.
    noticed: bool,
    /// The next alarm, if the grant expires at all.
    alarm: Option<Alarm>,
    /// Set when a room has been joined with `meta`.
    source: Option<Arc<SourceOutlet>>,
    /// Requests for the list of channels that are not answered.
    listings: u8,
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

/// The acknowledgement of a join.
#[derive(Serialize)]
struct JoinAck<'a> {
    #[serde(flatten)]
    reply: &'a JoinReply<'a>,
    /// Patterns of the channels that the client may publish on over HTTP; left out if there are none.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    publish: &'a [String],
}

struct Membership {
    member: Member,
    subscriber: Arc<SocketSubscriber>,
    /// The replay, until it is complete.
    replay: Option<ReplayCursor>,
    /// `None` for the rooms that each client may join in any case.
    reservation: Option<Reservation>,
}

impl Viewer {
    /// The client of `session`, outside the namespace. `presented` is what its handshake's token
    /// allows.
    pub fn new(
        shared: Arc<Shared>,
        session: Arc<Session>,
        presented: Presented,
        me: Weak<Self>,
    ) -> Self {
        Self { me, shared, session, presented, state: Mutex::default() }
    }

    /// What a CONNECT's own token allows, or else the handshake's, which may have expired since.
    fn grant(&self, auth: Option<&str>) -> Result<Grant, BadToken> {
        match auth.and_then(arguments::connect_token) {
            Some(token) => self.shared.auth.viewer(Some(&token), now()),
            None => self.presented.clone()?.still(now()),
        }
    }

    /// Carries out a request, or refuses it.
    fn answer(&self, state: &mut ViewerState, name: &str, request: Request) {
        let Request { args, answer } = request;
        let refused = match name {
            "channel" => match self.admit(state, &args) {
                Ok((room, options, reservation)) => {
                    return self.join(state, answer, (room, options, reservation));
                }
                Err(refusal) => refusal,
            },
            "leave" => match arguments::room(&args) {
                Ok(room) => return self.leave(state, answer, &room),
                Err(refusal) => refusal,
            },
            "channels" => match self.admit_listing(state, &args) {
                Ok(listing) => return self.list_channels(answer, listing),
                Err(refusal) => refusal,
            },
            "auth" => match self.renew(state, &args) {
                Ok(left) => return answer.accept(Renewed { left }),
                Err(refusal) => refusal,
            },
            _ => {
                let message =
                    format!("event `{name}` is unknown; use channel, leave, channels or auth");
                Refusal::new("unsupported", message)
            }
        };
        self.refuse(answer, refused);
    }

    fn refuse(&self, answer: Answer, refusal: Refusal) {
        debug!(code = refusal.code, "refused a request");
        self.shared.metrics.refusals(refusal.code).inc();
        answer.refuse(refusal);
    }

    /// What a request for the list of channels may see.
    fn admit_listing(
        &self,
        state: &mut ViewerState,
        args: &[serde_json::Value],
    ) -> Result<(Option<Grant>, Pattern), Refusal> {
        let pattern = arguments::pattern(args)?;
        if state.listings == MAX_LISTINGS {
            let message = format!(
                "a socket may wait for {MAX_LISTINGS} answers to `channels`; wait for one first"
            );
            return Err(Refusal::new("too_fast", message));
        }
        state.listings += 1;
        Ok((state.grant.clone(), pattern))
    }

    /// Answers with the list of channels when it is this client's turn.
    fn list_channels(&self, answer: Answer, (grant, pattern): (Option<Grant>, Pattern)) {
        let (rooms, me) = (self.shared.rooms.clone(), self.me.clone());
        tokio::spawn(async move {
            // The grant first: a client learns nothing of other rooms, not even by its time.
            let asked = move |room: &str| {
                grant.as_ref().is_some_and(|grant| grant.may_join(room))
                    && pattern.matches(room.as_bytes())
            };
            let (channels, more) = rooms.channels(asked).await;
            answer.accept(Channels { channels, more });
            if let Some(me) = me.upgrade() {
                let mut state = me.state.lock();
                state.listings = state.listings.saturating_sub(1);
            }
        });
    }

    fn admit(
        &self,
        state: &ViewerState,
        args: &[serde_json::Value],
    ) -> Result<(Arc<str>, Options, Option<Reservation>), Refusal> {
        let room = arguments::room(args)?;
        let options = Options::read(args.get(1))?;
        if !state.grant.as_ref().is_some_and(|grant| grant.may_join(&room)) {
            let message = "the token does not allow this room; use one that does";
            return Err(Refusal::new("forbidden", message));
        }
        let (count, most) = (state.rooms.len(), self.shared.max_rooms);
        if state.rooms.contains_key(&room) {
            return Ok((room, options, None));
        }
        if count >= most {
            let message = format!("a socket may be in {most} rooms at most; leave one first");
            return Err(Refusal::new("too_many_rooms", message));
        }
        if count < memberships::FREE {
            return Ok((room, options, None));
        }
        let reservation = self.shared.memberships.reserve().ok_or_else(|| {
            let message = format!(
                "all clients together are in as many rooms as the server's memory allows; \
                 leave a room (up to {} are always possible) or try again later",
                memberships::FREE
            );
            Refusal::new("too_many_rooms", message)
        })?;
        Ok((room, options, Some(reservation)))
    }

    fn join(
        &self,
        state: &mut ViewerState,
        answer: Answer,
        (room, options, reservation): (Arc<str>, Options, Option<Reservation>),
    ) {
        let rooms = &self.shared.rooms;
        let source = options.meta.then(|| self.source(state));
        let socket_subscriber =
            Arc::new(SocketSubscriber::new(self.session.clone(), source.clone()));
        let mut subscriber: Arc<dyn Subscriber> = socket_subscriber.clone();
        if options.latest {
            subscriber = Latest::new(subscriber, self.session.clone());
        }
        if let Some(tick) = options.tick {
            subscriber = MaxRate::new(subscriber, tick);
        }
        let (again, before, reservation) = match state.rooms.remove(&room) {
            None => (None, None, reservation),
            Some(Membership { member, subscriber, replay, reservation }) => {
                (Some((member, replay)), Some(subscriber), reservation)
            }
        };
        let others = (self.shared.hello && again.is_none()).then(|| rooms.members(&room));
        // A second join of the same room. If the client requested a replay, messages that are still
        // on their way to the previous subscriber are part of it, so that subscriber is closed.
        // Otherwise they arrive after this answer.
        let before = before.filter(|_| options.replay != ReplayRequest::default());
        let publish = state.grant.as_ref().map_or(&[][..], Grant::publish_patterns);
        let welcome = |reply: &JoinReply<'_>, missing: Option<&Gap>| {
            before.iter().for_each(|before| before.close());
            answer.accept(JoinAck { reply, publish });
            missing.iter().for_each(|gap| socket_subscriber.gap(&room, gap));
        };
        let joined = rooms.join(&room, again, subscriber, &options.replay, welcome);
        others.iter().flat_map(MemberSnapshot::iter).for_each(|other| other.hello());
        let Joined { room: name, member, replay } = joined;
        let (has_replay, subscriber) = (replay.is_some(), socket_subscriber);
        let membership = Membership { member, subscriber, replay, reservation };
        state.rooms.insert(name.clone(), membership);
        if has_replay {
            self.begin_replay(state, name);
        }
        // After the answer: emits an outage that has already been announced to others.
        source.iter().for_each(outages::enter);
    }

    /// The outlet for the event `source`; the first join with `meta` creates it.
    fn source(&self, state: &mut ViewerState) -> Arc<SourceOutlet> {
        let new = || SourceOutlet::new(self.session.clone(), self.shared.outages.told());
        state.source.get_or_insert_with(new).clone()
    }

    /// Leaves a room. Leaving a room that the viewer is not in succeeds as well.
    fn leave(&self, state: &mut ViewerState, answer: Answer, room: &str) {
        self.take_out(state, room);
        answer.accept(Left { room });
    }

    fn take_out(&self, state: &mut ViewerState, room: &str) {
        if let Some(membership) = state.rooms.remove(room) {
            membership.subscriber.close();
            self.shared.rooms.leave(room, membership.member);
        }
    }

    /// Replaces the viewer's token, and leaves the rooms that the new one does not allow. Returns
    /// these rooms. If the new token is invalid, the old one stays in force.
    fn renew(
        &self,
        state: &mut ViewerState,
        args: &[serde_json::Value],
    ) -> Result<Vec<Arc<str>>, Refusal> {
        let token = arguments::token(args)?;
        let grant = self.shared.auth.viewer(Some(token), now()).map_err(|problem| {
            self.count_bad_token(&problem);
            Refusal::new("bad_token", problem.to_string())
        })?;
        let forbidden = |room: &&Arc<str>| !grant.may_join(room);
        let left: Vec<_> = state.rooms.keys().filter(forbidden).cloned().collect();
        left.iter().for_each(|room| self.take_out(state, room));
        state.grant = Some(grant);
        state.noticed = false;
        self.set_alarm(state);
        Ok(left)
    }

    fn count_bad_token(&self, problem: &BadToken) {
        self.shared.metrics.tokens_refused.inc();
        problem.log(WATCHING);
    }

    /// Sets the alarm for the notice or, after that, for the expiry of the token.
    fn set_alarm(&self, state: &mut ViewerState) {
        let ends = state.grant.as_ref().and_then(|grant| grant.ends);
        state.alarm = ends.map(|ends| {
            let time = if state.noticed { ends } else { ends.saturating_sub(NOTICE) };
            self.shared.expiry.at(time, self.me.clone())
        });
    }
}

impl Client for Viewer {
    fn connect(&self, auth: Option<&str>) -> Result<(), String> {
        let grant = self.grant(auth).map_err(|problem| {
            self.count_bad_token(&problem);
            problem.to_string()
        })?;
        self.state.lock().grant = Some(grant);
        Ok(())
    }

    fn connected(&self) {
        self.shared.metrics.sockets.inc();
        self.set_alarm(&mut self.state.lock());
    }

    fn event(&self, event: ClientEvent) {
        let answer = Answer::new(self.session.clone(), event.ack);
        let refusal = match event.refused {
            Some(Unacceptable::TooFast) => {
                let most = self.shared.max_events;
                let message = format!("a socket may send {most} events a second; slow down");
                Refusal::new("too_fast", message)
            }
            Some(Unacceptable::TooLarge { most }) => {
                let message = format!("an event with attachments may have {most} bytes at most");
                Refusal::new("too_large", message)
            }
            None if event.text.len() > self.shared.max_message => {
                let most = self.shared.max_message;
                let message = format!("a message may have {most} bytes at most (MAX_MESSAGE)");
                Refusal::new("too_large", message)
            }
            None => match event.content() {
                Ok((name, args)) => {
                    let mut state = self.state.lock();
                    return self.answer(&mut state, &name, Request { args, answer });
                }
                Err(problem) => Refusal::new("bad_request", problem),
            },
        };
        self.refuse(answer, refusal);
    }

    fn disconnected(&self) {
        let mut state = mem::take(&mut *self.state.lock());
        if state.grant.is_none() {
            return;
        }
        self.shared.metrics.sockets.dec();
        for (room, membership) in state.rooms.drain() {
            membership.subscriber.close();
            self.shared.rooms.leave(&room, membership.member);
        }
    }
}

impl Expires for Viewer {
    /// Notifies the client that its token expires soon or, if it has expired, disconnects it.
    fn check_token_expiry(&self) {
        let mut state = self.state.lock();
        let Some(ends) = state.grant.as_ref().and_then(|grant| grant.ends) else { return };
        let left = ends.saturating_sub(now());
        if left > 0 {
            if left <= NOTICE && !mem::replace(&mut state.noticed, true) {
                let message = format!(
                    "the token expires in {} s: emit `auth` with {{token: a new one}}",
                    left.div_ceil(1000)
                );
                self.session.emit("error", Some(&Refusal::new("expiring", message)));
            }
            return self.set_alarm(&mut state);
        }
        drop(state);
        let message = "the token has expired: connect again with a new one";
        self.session.emit("error", Some(&Refusal::new("expired", message)));
        self.disconnected();
        self.session.disconnect(Close::Expired);
    }
}
