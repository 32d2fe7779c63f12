//! A request of a client: an event's arguments, and the way to answer.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value as Json;

use crate::engine::session::Session;

/// A request that can be answered.
pub struct Request {
    /// Its arguments, without the event's name.
    pub args: Vec<Json>,
    /// Where the answer goes.
    pub answer: Answer,
}

/// The way to answer one request.
pub struct Answer {
    session: Arc<Session>,
    ack: Option<i64>,
}

/// Why a request was refused, as the client receives it.
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

impl Answer {
    /// An answer to `session`; without `ack`, the client expects none.
    pub fn new(session: Arc<Session>, ack: Option<i64>) -> Self {
        Self { session, ack }
    }

    /// Answers that the request was carried out, if the client expects an answer.
    pub fn accept(self, answer: impl Serialize) {
        #[derive(Serialize)]
        struct Accepted<T> {
            ok: bool,
            #[serde(flatten)]
            answer: T,
        }
        if let Some(ack) = self.ack {
            self.session.acknowledge(ack, &Accepted { ok: true, answer });
        }
    }

    /// Explains what was wrong: in the acknowledgement, or else by the event `error`.
    pub fn refuse(self, refusal: Refusal) {
        #[derive(Serialize)]
        struct Refused {
            ok: bool,
            error: Refusal,
        }
        match self.ack {
            Some(ack) => self.session.acknowledge(ack, &Refused { ok: false, error: refusal }),
            None => self.session.emit("error", Some(&refusal)),
        }
    }
}
