//! The arguments of requests: rooms, options, patterns; what is wrong with them is explained.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::Value as Json;

use super::request::Refusal;
use crate::{
    history::{Position, Wish},
    rooms::Rooms,
};

/// Bytes of a pattern: matching costs time.
const MAX_PATTERN: usize = 256;

/// Messages a second that one may ask for at most.
const MAX_RATE: RangeInclusive<f64> = 0.1..=100.0;

/// How somebody joins.
#[derive(Debug, Default, PartialEq)]
pub struct Options {
    /// Messages come with their place.
    pub meta: bool,
    /// What to see first.
    pub wish: Wish,
    /// Only the newest message waits while the viewer is behind.
    pub latest: bool,
    /// At most one message in this time.
    pub tick: Option<Duration>,
}

/// The room that a request is about.
pub fn room(args: &[Json]) -> Result<Arc<str>, Refusal> {
    let Some(name) = args.first().and_then(Json::as_str) else {
        return Err(bad("the first argument is the room's name, a string"));
    };
    Rooms::check_name(name).map_err(|problem| Refusal::new("bad_room", problem))?;
    Ok(name.into())
}

/// The pattern of a look at the channels; all of them without one.
pub fn pattern(args: &[Json]) -> Result<String, Refusal> {
    match args.first() {
        None | Some(Json::Null) => Ok("*".to_owned()),
        Some(Json::String(pattern)) if pattern.len() <= MAX_PATTERN => Ok(pattern.clone()),
        Some(_) => Err(bad("the first argument is a pattern, a string of 256 bytes at most")),
    }
}

impl Options {
    /// The options of a join, from its second argument.
    pub fn read(argument: Option<&Json>) -> Result<Self, Refusal> {
        let options = match argument {
            None | Some(Json::Null) => return Ok(Self::default()),
            Some(Json::Object(options)) => options,
            Some(_) => {
                return Err(bad("the second argument is an object of options, e.g. {meta: true}"));
            }
        };
        let mut read = Self::default();
        for (name, value) in options {
            match (name.as_str(), value) {
                (_, Json::Null) => {}
                ("meta", Json::Bool(meta)) => read.meta = *meta,
                ("latest", Json::Bool(latest)) => read.latest = *latest,
                ("meta" | "latest", _) => {
                    return Err(bad(&format!("option `{name}` is true or false")));
                }
                ("maxRate", value) => match value.as_f64() {
                    Some(rate) if MAX_RATE.contains(&rate) => {
                        read.tick = Some(Duration::from_secs_f64(1.0 / rate));
                    }
                    _ => return Err(bad("option `maxRate` is messages a second, 0.1 to 100")),
                },
                ("last", value) => match value.as_u64() {
                    Some(last) => read.wish.last = Some(last as usize),
                    None => return Err(bad("option `last` is a whole number, 0 or more")),
                },
                ("since", value) => match Position::deserialize(value) {
                    Ok(since) => read.wish.since = Some(since),
                    Err(_) => {
                        let message =
                            "option `since` is the {epoch, offset} of a message or an ack";
                        return Err(bad(message));
                    }
                },
                _ => {
                    let message = format!(
                        "option `{name}` is unknown; there are meta, last, since, latest, maxRate"
                    );
                    return Err(Refusal::new("unsupported", message));
                }
            }
        }
        Ok(read)
    }
}

fn bad(message: &str) -> Refusal {
    Refusal::new("bad_request", message)
}
