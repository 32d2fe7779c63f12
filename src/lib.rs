//! Roomcast shows what is published on Redis, live, in browsers: it subscribes to patterns and
//! hands every message to the Socket.IO room named like its channel.
//!
//! Three flows run through the house, each from left to right:
//!
//! ```text
//! data     Redis ─► redis ─[ingest: full = drop + count]─► fanout ─► rooms ─► outlets ─► stream ─► kernel
//! control  flags + env ─► config ─► tls ─► accept ─► http ─► socketio
//! stop     stop ─► not ready ─► stop accepting ─► end the streams over the grace while messages go on ─► stop the subscription
//! ```
//!
//! Answers, replays and whatever goes to who polls take the way through the engine; see
//! `conn/stream/wire.rs` for how messages pass it by.
//!
//! [`Server`] puts the parts together: bind, assemble, serve, drain.

pub mod auth;
pub mod channel;
pub mod config;
pub mod dev_redis;
pub mod glob;
pub mod health;
pub mod metrics;
pub mod redis;

/// What is to know before a server runs here; nothing is changed by it. Redis' part is
/// [`redis::inspect`].
pub mod inspect {
    pub use crate::{
        conn::accept::bind,
        conn::capacity::Capacity,
        http::hosts::are_checked,
        store::try_folder,
        tls::inspect::{Ca, Certificate, Stored, ask_ca, ca, files, is_forgotten, stored, zones},
    };
}

mod clock;
mod conn;
mod file_calls;
mod http;
mod ingest;
mod log_limit;
mod memory;
mod message;
mod outages;
mod rooms;
mod server;
mod socketio;
mod store;
mod tls;

pub use server::{Reload, Server};
