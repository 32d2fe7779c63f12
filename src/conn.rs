//! Connections below HTTP: listening, accepting, limits, what waits for each, and their end.

pub mod accept;
pub mod addresses;
pub mod backlog;
pub mod capacity;
pub mod drain;
pub mod stream;
