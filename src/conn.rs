//! Connections below HTTP: listening, accepting, limits, pending bytes, and draining.

pub mod accept;
pub mod addresses;
pub mod backlog;
pub mod capacity;
pub mod connection;
pub mod drain;
pub mod socket;
pub mod stream;
pub mod writer;
