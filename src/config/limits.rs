//! The limits on connections, sockets and memory.

use super::{
    Settings,
    parse::{Check, count, given, size},
};

/// Default of MAX_ROOMS: enough for a page that shows rooms side by side on a very large screen.
pub const MAX_ROOMS: &str = "256";
/// Default of MAX_EVENTS, per second: far above a user's clicks and a page's polling of `channels`.
pub const MAX_EVENTS: &str = "100";
/// Default of MAX_MESSAGE: far above the size of room names, options and a token.
pub const MAX_MESSAGE: &str = "64KiB";

/// A client may join this many rooms at once, and all answers have to fit into its queue of 4,096
/// packets.
const ROOMS_MAX: usize = 2000;
/// In bytes: enough for a join with all of its options.
const MESSAGE_MIN: usize = 4 << 10;
/// In bytes: a message has to fit into the body of a polling request.
const MESSAGE_MAX: usize = 1 << 20;
/// In bytes: the maximum backlog of a single client.
const BACKLOG_MIN: usize = 4 << 20;

/// Limits per connection, per client address, and for the whole server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Maximum number of connections; `None` = depends on the open-file limit and the available
    /// memory, at most 20,000.
    pub connections: Option<usize>,
    /// Maximum number of connections per client address; `None` = no limit.
    pub per_address: Option<usize>,
    /// Maximum number of rooms that a socket may be in.
    pub rooms: usize,
    /// Maximum number of events per second from a socket.
    pub events: usize,
    /// Maximum size of a message from a client, in bytes.
    pub message: usize,
    /// Maximum number of bytes pending for all clients together; `None` = depends on the available
    /// memory.
    pub backlog: Option<usize>,
}

/// Validates the limits; `None` if one of them is invalid, which `check` notes.
pub fn limits(check: &mut Check, settings: &Settings) -> Option<Limits> {
    let connections = given(settings.max_connections.clone())
        .and_then(|text| check.take("MAX_CONNECTIONS", count(&text)));
    let per_address = given(settings.max_connections_per_address.clone())
        .and_then(|text| check.take("MAX_CONNECTIONS_PER_ADDRESS", count(&text)));
    let rooms = check.value("MAX_ROOMS", &settings.max_rooms, MAX_ROOMS, |text| {
        let rooms = count(text).ok().filter(|&rooms| rooms <= ROOMS_MAX);
        rooms.ok_or_else(|| format!("`{text}` is not a whole number from 1 to {ROOMS_MAX}"))
    });
    let events = check.value("MAX_EVENTS", &settings.max_events, MAX_EVENTS, count);
    let message = check.value("MAX_MESSAGE", &settings.max_message, MAX_MESSAGE, |text| {
        let fits = |size: &usize| (MESSAGE_MIN..=MESSAGE_MAX).contains(size);
        size(text)
            .ok()
            .filter(fits)
            .ok_or_else(|| format!("`{text}` is not a size from 4KiB to 1MiB"))
    });
    let backlog = given(settings.backlog_total.clone()).and_then(|text| {
        let size = size(&text).ok().filter(|&size| size >= BACKLOG_MIN);
        let problem = || format!("`{text}` is not a size of 4MiB or more; write e.g. 256MiB");
        check.take("BACKLOG_TOTAL", size.ok_or_else(problem))
    });
    Some(Limits {
        connections,
        per_address,
        rooms: rooms?,
        events: events?,
        message: message?,
        backlog,
    })
}
