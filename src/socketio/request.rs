//! What a client asks: an event's arguments as they came, and the way to answer.

use std::{convert::Infallible, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{
    Value as Json,
    value::{RawValue, to_raw_value},
};
use socketioxide::{
    SendError,
    adapter::LocalAdapter,
    extract::{AckSender, SocketRef},
    handler::{FromConnectParts, FromMessageParts},
    socket::Socket,
};
use socketioxide_core::Value;

use super::{session::Session, subscriber::queued};

/// An event from a client.
pub struct Request {
    /// The event's name.
    pub event: String,
    /// Its arguments, without the acknowledgement.
    pub args: Vec<Json>,
    /// Its bytes, name and arguments.
    pub size: usize,
    ack: Option<AckSender>,
}

/// What a client hears about a request that was wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Refusal {
    /// For programs.
    pub code: &'static str,
    /// For developers: what to do instead.
    pub message: String,
}

impl Refusal {
    /// A refusal with a code and what to do.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// The token that a client connects with, if it does: `auth: {token}`.
pub struct Token(pub Option<String>);

impl FromConnectParts<LocalAdapter> for Token {
    type Error = Infallible;

    fn from_connect_parts(_: &Arc<Socket>, auth: &Option<Value>) -> Result<Self, Infallible> {
        #[derive(Deserialize)]
        struct Auth {
            token: Option<String>,
        }
        let text = auth.as_ref().and_then(Value::as_str);
        let auth = text.and_then(|text| serde_json::from_str::<Auth>(text.as_str()).ok());
        Ok(Self(auth.and_then(|auth| auth.token).filter(|token| !token.is_empty())))
    }
}

impl FromMessageParts<LocalAdapter> for Request {
    type Error = Infallible;

    fn from_message_parts(
        socket: &Arc<Socket>,
        value: &mut Value,
        ack_id: &Option<i64>,
    ) -> Result<Self, Infallible> {
        // The engine has read the name already, so this is an array that begins with it.
        let text = value.as_str().map(|text| text.as_str()).unwrap_or_default();
        let size = text.len();
        let mut args = serde_json::from_str::<Vec<Json>>(text).unwrap_or_default().into_iter();
        let event =
            args.next().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
        let Ok(ack) = AckSender::from_message_parts(socket, value, ack_id);
        Ok(Self { event, args: args.collect(), size, ack: ack_id.is_some().then_some(ack) })
    }
}

impl Request {
    /// Answers a request that was right, where an answer was asked for.
    pub fn accept(self, session: &Session, answer: impl Serialize) {
        #[derive(Serialize)]
        struct Accepted<T> {
            ok: bool,
            #[serde(flatten)]
            answer: T,
        }
        if let Some(ack) = self.ack {
            send(session, &Accepted { ok: true, answer }, |answer| ack.send(answer));
        }
    }

    /// Explains what was wrong: in the acknowledgement, else by the event `error`.
    pub fn refuse(self, session: &Session, socket: &SocketRef, refusal: Refusal) {
        #[derive(Serialize)]
        struct Refused {
            ok: bool,
            error: Refusal,
        }
        match self.ack {
            Some(ack) => {
                let refused = Refused { ok: false, error: refusal };
                send(session, &refused, |refused| ack.send(refused));
            }
            None => send(session, &refusal, |refusal| socket.emit("error", refusal)),
        }
    }
}

/// Sends an answer, which counts as all that waits does: who asks without reading must not make us
/// keep more than anybody else.
fn send(
    session: &Session,
    answer: &impl Serialize,
    send: impl FnOnce(&RawValue) -> Result<(), SendError>,
) {
    // Strings, numbers and lists of them: encoding cannot fail.
    let Ok(answer) = to_raw_value(answer) else { return };
    let size = [answer.get().len()].into_iter();
    if let Err(reason) = session.queue(size).and_then(|()| queued(send(&answer))) {
        session.end(reason);
    }
}
