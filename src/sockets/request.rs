//! What a client asks: an event's arguments as they came, and the way to answer.

use std::{convert::Infallible, sync::Arc};

use serde::Serialize;
use serde_json::Value as Json;
use socketioxide::{
    adapter::LocalAdapter,
    extract::{AckSender, SocketRef},
    handler::FromMessageParts,
    socket::Socket,
};
use socketioxide_core::Value;

/// An event from a client.
pub struct Request {
    /// The event's name.
    pub event: String,
    /// Its arguments, without the acknowledgement.
    pub args: Vec<Json>,
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

impl FromMessageParts<LocalAdapter> for Request {
    type Error = Infallible;

    fn from_message_parts(
        socket: &Arc<Socket>,
        value: &mut Value,
        ack_id: &Option<i64>,
    ) -> Result<Self, Infallible> {
        // The engine has read the name already, so this is an array that begins with it.
        let text = value.as_str().map(|text| text.as_str()).unwrap_or_default();
        let mut args = serde_json::from_str::<Vec<Json>>(text).unwrap_or_default().into_iter();
        let event =
            args.next().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
        let Ok(ack) = AckSender::from_message_parts(socket, value, ack_id);
        Ok(Self { event, args: args.collect(), ack: ack_id.is_some().then_some(ack) })
    }
}

impl Request {
    /// Answers a request that was right, where an answer was asked for.
    pub fn accept(self, answer: impl Serialize) {
        #[derive(Serialize)]
        struct Accepted<T> {
            ok: bool,
            #[serde(flatten)]
            answer: T,
        }
        if let Some(ack) = self.ack {
            // Fails only when the client's queue is full or gone, and then the client is ended.
            let _ = ack.send(&Accepted { ok: true, answer });
        }
    }

    /// Explains what was wrong: in the acknowledgement, else by the event `error`.
    pub fn refuse(self, socket: &SocketRef, refusal: Refusal) {
        #[derive(Serialize)]
        struct Refused {
            ok: bool,
            error: Refusal,
        }
        let _ = match self.ack {
            Some(ack) => ack.send(&Refused { ok: false, error: refusal }),
            None => socket.emit("error", &refusal),
        };
    }
}
