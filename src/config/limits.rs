//! How much anyone may ask for.

use super::{
    Settings,
    parse::{Check, count, given, size},
};

/// As many rooms as somebody looks at on a very large screen.
pub const MAX_ROOMS: &str = "256";
/// A person's clicks and a page's polls of `channels` are far below.
pub const MAX_EVENTS: &str = "100";
/// Rooms' names, options and a token are far below.
pub const MAX_MESSAGE: &str = "64KiB";

/// The answers to so many joins have to fit into a client's queue of 4,096 packets.
const ROOMS_MAX: usize = 2000;
/// Room for a join with all of its options.
const MESSAGE_MIN: usize = 4 << 10;
/// A polling request has to be able to carry it.
const MESSAGE_MAX: usize = 1 << 20;
/// What may wait for a single viewer.
const BACKLOG_MIN: usize = 4 << 20;

/// How much anyone may ask for, and all together.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections; `None` = by open files and memory, at most 20,000.
    pub connections: Option<usize>,
    /// Connections of one address; `None` = any number.
    pub per_address: Option<usize>,
    /// Rooms of one socket.
    pub rooms: usize,
    /// Events a second of one socket.
    pub events: usize,
    /// Bytes of a message from a client.
    pub message: usize,
    /// Bytes that wait for all viewers together; `None` = by the memory there is.
    pub backlog: Option<usize>,
}

/// The limits, or their problems noted.
pub fn limits(check: &mut Check, settings: &Settings) -> Option<Limits> {
    let connections = given(settings.max_connections.clone())
        .and_then(|text| check.take("MAX_CONNECTIONS", count(&text)));
    let per_address = given(settings.max_connections_per_address.clone())
        .and_then(|text| check.take("MAX_CONNECTIONS_PER_ADDRESS", count(&text)));
    let rooms = check.value("MAX_ROOMS", &settings.max_rooms, MAX_ROOMS, |text| {
        let rooms = count(text).ok().filter(|&rooms| rooms <= ROOMS_MAX);
        rooms.ok_or_else(|| format!("`{text}` is no whole number from 1 to {ROOMS_MAX}"))
    });
    let events = check.value("MAX_EVENTS", &settings.max_events, MAX_EVENTS, count);
    let message = check.value("MAX_MESSAGE", &settings.max_message, MAX_MESSAGE, |text| {
        let fits = |size: &usize| (MESSAGE_MIN..=MESSAGE_MAX).contains(size);
        size(text).ok().filter(fits).ok_or_else(|| format!("`{text}` is no size from 4KiB to 1MiB"))
    });
    let backlog = given(settings.backlog_total.clone()).and_then(|text| {
        let size = size(&text).ok().filter(|&size| size >= BACKLOG_MIN);
        let problem = || format!("`{text}` is no size of 4MiB or more; write e.g. 256MiB");
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
