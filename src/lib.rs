//! Roomcast shows messages published on Redis live in browsers: it subscribes to channel patterns
//! and emits every message to the Socket.IO room that has the name of its channel.
//!
//! Three flows run through the modules, each from left to right:
//!
//! ```text
//! data     Redis ─► redis ─[ingest: full = drop + count]─► fanout ─► rooms ─► subscribers ─► connection's writer ─► kernel
//! control  flags + env ─► config ─► tls ─► accept ─► http ─► engine ─► socketio
//! stop     stop ─► not ready ─► stop accepting ─► end the streams over the grace while messages go on ─► stop the subscription
//! ```
//!
//! [`Server`] owns the life cycle of all parts: bind, assemble, serve, drain.

pub mod auth;
pub mod channel;
pub mod config;
pub mod dev_redis;
pub mod glob;
pub mod health;
pub mod metrics;
pub mod redis;

/// Checks of a machine before a server runs on it: ports, limits, folders, certificates. They leave
/// nothing changed. The checks of Redis are in [`redis::inspect`].
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
mod engine;
mod file_calls;
mod http;
mod ingest;
mod lanes;
mod log_limit;
mod memory;
mod message;
mod outages;
mod position;
mod rooms;
mod server;
mod socketio;
mod store;
mod tls;

pub use server::{Reload, Server};
