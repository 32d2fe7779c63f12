//! The events of a socket: joins, leaves, the list of channels, and new tokens.

use std::sync::Arc;

use http::request::Parts;

use crate::{
    auth::{Auth, BadToken, Grant},
    clock::now,
    engine::{Application, Client, session::Session},
    metrics::Metrics,
    outages::Outages,
    rooms::{Rooms, memberships::Memberships},
};

mod arguments;
mod conflate;
pub mod expiry;
mod frames;
mod request;
mod source;
mod subscriber;
mod viewer;

use expiry::Expiry;
pub use request::Refusal;
use viewer::Viewer;

/// State and limits that all sockets share.
pub struct Shared {
    /// The rooms and their members.
    pub rooms: Arc<Rooms>,
    /// The bound of memberships.
    pub memberships: Arc<Memberships>,
    /// Announces outages of the source.
    pub outages: Arc<Outages>,
    /// Checks tokens.
    pub auth: Arc<Auth>,
    /// Calls viewers when their tokens expire.
    pub expiry: Arc<Expiry>,
    /// Counts sockets, refusals and refused tokens.
    pub metrics: Arc<Metrics>,
    /// Whether a join emits `hello` to the room's other members.
    pub hello: bool,
    /// Maximum number of rooms of one socket.
    pub max_rooms: usize,
    /// Maximum number of events per second of one socket.
    pub max_events: usize,
    /// Maximum size of a client's message, in bytes.
    pub max_message: usize,
}

/// The token in the request of a handshake, as an extension of the request.
#[derive(Clone)]
pub struct HandshakeToken(pub String);

/// What the token in the handshake's request allows, or why it was not accepted.
type Presented = Result<Grant, BadToken>;

/// Makes a [`Viewer`] for each session.
pub struct Events(pub Arc<Shared>);

impl Application for Events {
    fn open(&self, session: &Arc<Session>, request: &Parts) -> Arc<dyn Client> {
        let token = request.extensions.get::<HandshakeToken>().map(|token| &*token.0);
        let presented: Presented = self.0.auth.viewer(token, now());
        Arc::new_cyclic(|me| Viewer::new(self.0.clone(), session.clone(), presented, me.clone()))
    }
}
