//! Connections below HTTP: listening, accepting, limits, pending bytes, and draining.

pub mod accept;
pub mod addresses;
pub mod backlog;
pub mod caller;
pub mod capacity;
pub mod connection;
pub mod drain;
pub mod handshaking;
pub mod inbound;
pub mod rate;
pub mod socket;
pub mod stream;
pub mod writer;
