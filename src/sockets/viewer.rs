//! One connect instance: the rooms it is in, from its connect to its end.
//!
//! A session id can be used again by a client that leaves the namespace and comes back, so a
//! viewer is an instance with a phase of its own; once it is gone, nothing joins any more.

use std::{
    collections::HashMap,
    mem,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::Serialize;
use serde_json::Value as Json;
use socketioxide::extract::SocketRef;
use tracing::debug;

use super::{
    Shared,
    outlet::SocketOutlet,
    request::{Refusal, Request},
    session::Session,
};
use crate::{
    metrics::Close,
    rooms::{Member, Position, Rooms},
};

/// Rooms of one socket.
const MAX_ROOMS: usize = 256;

/// What a request is about.
#[derive(Clone, Copy, Debug)]
pub enum Ask {
    /// Event `channel`.
    Join,
    /// Event `leave`.
    Leave,
    /// Any other event.
    Unknown,
}

/// A client in the namespace.
pub struct Viewer {
    shared: Arc<Shared>,
    session: Arc<Session>,
    gone: AtomicBool,
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    rooms: HashMap<Arc<str>, Member>,
}

enum Phase {
    /// The client may know that it is connected, but the engine does not yet let us emit: what it
    /// asks waits. This lasts for microseconds.
    Connecting(Vec<(Ask, Request)>),
    Connected,
    Gone,
}

#[derive(Serialize)]
struct InRoom<'a> {
    room: &'a str,
    #[serde(flatten)]
    position: Option<&'a Position>,
}

impl Viewer {
    /// A viewer that is about to connect over a session.
    pub fn new(shared: Arc<Shared>, session: Arc<Session>) -> Arc<Self> {
        let state = State { phase: Phase::Connecting(Vec::new()), rooms: HashMap::new() };
        let (gone, state) = (AtomicBool::new(false), Mutex::new(state));
        Arc::new(Self { shared, session, gone, state })
    }

    /// The session it is connected over.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Whether it has ended.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// The engine lets us emit: answers what was asked until now, in order.
    pub fn connected(self: &Arc<Self>, socket: &SocketRef) {
        let mut state = self.lock();
        if let Phase::Connecting(early) = &mut state.phase {
            let early = mem::take(early);
            state.phase = Phase::Connected;
            self.shared.metrics.sockets.inc();
            for (ask, request) in early {
                self.answer(&mut state, socket, ask, request);
            }
        }
    }

    /// Answers a request; requests of one viewer come one after the other.
    pub fn request(self: &Arc<Self>, socket: &SocketRef, ask: Ask, request: Request) {
        let mut state = self.lock();
        match &mut state.phase {
            Phase::Connecting(early) if early.len() < MAX_ROOMS => early.push((ask, request)),
            Phase::Connecting(_) => {
                let refusal = Refusal::new("too_early", "wait for `connect` before asking so much");
                request.refuse(socket, refusal);
            }
            Phase::Connected => self.answer(&mut state, socket, ask, request),
            Phase::Gone => {}
        }
    }

    /// Ends the viewer because of what its client does not take.
    pub fn end(&self, reason: Close) {
        self.gone();
        self.session.end(reason);
    }

    /// Leaves all rooms, for ever.
    pub fn gone(&self) {
        self.gone.store(true, Ordering::Release);
        let mut state = self.lock();
        if matches!(mem::replace(&mut state.phase, Phase::Gone), Phase::Connected) {
            self.shared.metrics.sockets.dec();
        }
        for (room, member) in state.rooms.drain() {
            self.shared.rooms.leave(&room, member);
        }
    }

    fn answer(self: &Arc<Self>, state: &mut State, socket: &SocketRef, ask: Ask, request: Request) {
        let refused = match ask {
            Ask::Join => match wish(&request, &state.rooms) {
                Ok((room, meta)) => return self.join(state, socket, request, room, meta),
                Err(refusal) => refusal,
            },
            Ask::Leave => match room(&request) {
                Ok(room) => return self.leave(state, request, &room),
                Err(refusal) => refusal,
            },
            Ask::Unknown => {
                let message =
                    format!("`{}` is no event here: channel and leave are", request.event);
                Refusal::new("unsupported", message)
            }
        };
        debug!(sid = %socket.id, code = refused.code, "refused a request");
        request.refuse(socket, refused);
    }

    fn join(
        self: &Arc<Self>,
        state: &mut State,
        socket: &SocketRef,
        request: Request,
        room: Arc<str>,
        meta: bool,
    ) {
        let rooms = &self.shared.rooms;
        let welcome = |position: &Position| {
            request.accept(InRoom { room: &room, position: Some(position) });
        };
        let outlet = Arc::new(SocketOutlet::new(socket.clone(), self.clone(), meta));
        if let Some(&member) = state.rooms.get(&room) {
            return rooms.rejoin(&room, member, outlet, welcome);
        }
        let others = self.shared.hello.then(|| rooms.members(&room));
        let member = rooms.join(&room, outlet, welcome);
        state.rooms.insert(room, member);
        others.iter().flat_map(|others| others.values()).for_each(|other| other.hello());
    }

    /// Leaving a room that one is not in is no mistake: the wish is fulfilled.
    fn leave(&self, state: &mut State, request: Request, room: &str) {
        if let Some(member) = state.rooms.remove(room) {
            self.shared.rooms.leave(room, member);
        }
        request.accept(InRoom { room, position: None });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn room(request: &Request) -> Result<Arc<str>, Refusal> {
    let Some(name) = request.args.first().and_then(Json::as_str) else {
        return Err(Refusal::new("bad_request", "the first argument is the room's name, a string"));
    };
    Rooms::check_name(name).map_err(|problem| Refusal::new("bad_room", problem))?;
    Ok(name.into())
}

/// The room to join, and whether with meta data.
fn wish(request: &Request, rooms: &HashMap<Arc<str>, Member>) -> Result<(Arc<str>, bool), Refusal> {
    let room = room(request)?;
    let meta = match request.args.get(1) {
        None | Some(Json::Null) => false,
        Some(Json::Object(options)) => meta(options)?,
        Some(_) => {
            let message = "the second argument is an object of options, e.g. {meta: true}";
            return Err(Refusal::new("bad_request", message));
        }
    };
    if rooms.len() >= MAX_ROOMS && !rooms.contains_key(&room) {
        let message = format!("a socket is in {MAX_ROOMS} rooms at most; leave one first");
        return Err(Refusal::new("too_many_rooms", message));
    }
    Ok((room, meta))
}

fn meta(options: &serde_json::Map<String, Json>) -> Result<bool, Refusal> {
    if let Some(option) = options.keys().find(|option| *option != "meta") {
        let message = format!("option `{option}` is unknown or not built yet; there is meta");
        return Err(Refusal::new("unsupported", message));
    }
    match options.get("meta") {
        None => Ok(false),
        Some(Json::Bool(meta)) => Ok(*meta),
        Some(_) => Err(Refusal::new("bad_request", "option `meta` is true or false")),
    }
}
