//! Parses the arguments of requests: rooms, options, patterns. Refusals explain what is wrong.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::Value as Json;

use super::request::Refusal;
use crate::{
    glob::Pattern,
    position::Position,
    rooms::{Rooms, history::ReplayRequest},
};

/// Maximum size of a pattern in bytes; matching takes time that grows with it.
const MAX_PATTERN: usize = 256;
/// The most stars of a pattern: each can make the match of one name longer.
const MAX_STARS: usize = 8;

/// Range of the option `maxRate`, in messages per second.
const MAX_RATE: RangeInclusive<f64> = 0.1..=100.0;

/// The options of a join.
#[derive(Debug, Default, PartialEq)]
pub struct Options {
    /// Each message is emitted with its metadata: room, epoch, offset and time.
    pub meta: bool,
    /// Which part of the history to replay first.
    pub replay: ReplayRequest,
    /// While the viewer is behind, keep only the newest message for it.
    pub latest: bool,
    /// Minimum interval between two messages.
    pub tick: Option<Duration>,
}

/// The room that a request names.
///
/// # Errors
/// `bad_request` if the first argument is not a string, `bad_room` if it is not a valid name.
pub fn room(args: &[Json]) -> Result<Arc<str>, Refusal> {
    let Some(name) = args.first().and_then(Json::as_str) else {
        return Err(bad("the first argument must be the room's name, a string"));
    };
    Rooms::check_name(name).map_err(|problem| Refusal::new("bad_room", problem))?;
    Ok(name.into())
}

/// The token in the payload of a CONNECT: `{token}` as JSON text.
pub fn connect_token(auth: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Auth {
        token: Option<String>,
    }
    let auth: Auth = serde_json::from_str(auth).ok()?;
    auth.token.filter(|token| !token.is_empty())
}

/// The token of a renewal: `{token}` as the first argument.
///
/// # Errors
/// `bad_request` if there is none.
pub fn token(args: &[Json]) -> Result<&str, Refusal> {
    let token = args.first().and_then(|argument| argument.get("token")?.as_str());
    token.ok_or_else(|| bad("the first argument must be an object with the new token: {token}"))
}

/// The pattern of a `channels` request; `*` if there is no argument.
///
/// # Errors
/// `bad_request` if the first argument is not a string, is longer than 256 bytes or has more than 8
/// stars.
pub fn pattern(args: &[Json]) -> Result<Pattern, Refusal> {
    let pattern = match args.first() {
        None | Some(Json::Null) => "*",
        Some(Json::String(pattern)) if pattern.len() <= MAX_PATTERN => pattern,
        Some(_) => {
            return Err(bad("the first argument must be a pattern, a string of at most 256 bytes"));
        }
    };
    let pattern = Pattern::new(pattern.as_bytes());
    if pattern.stars() > MAX_STARS {
        return Err(bad("a pattern may have 8 stars at most"));
    }
    Ok(pattern)
}

impl Options {
    /// Parses the options of a join from its second argument. Without one, all are off.
    ///
    /// # Errors
    /// `bad_request` if an option's value is invalid, `unsupported` if its name is unknown.
    pub fn read(argument: Option<&Json>) -> Result<Self, Refusal> {
        let options = match argument {
            None | Some(Json::Null) => return Ok(Self::default()),
            Some(Json::Object(options)) => options,
            Some(_) => {
                return Err(bad("the second argument must be an object, e.g. {meta: true}"));
            }
        };
        let mut read = Self::default();
        for (name, value) in options {
            match (name.as_str(), value) {
                (_, Json::Null) => {}
                ("meta", Json::Bool(meta)) => read.meta = *meta,
                ("latest", Json::Bool(latest)) => read.latest = *latest,
                ("meta" | "latest", _) => {
                    return Err(bad(&format!("option `{name}` must be true or false")));
                }
                ("maxRate", value) => match value.as_f64() {
                    Some(rate) if MAX_RATE.contains(&rate) => {
                        read.tick = Some(Duration::from_secs_f64(1.0 / rate));
                    }
                    _ => return Err(bad("option `maxRate` must be 0.1 to 100 messages a second")),
                },
                ("last", value) => match value.as_u64() {
                    Some(last) => read.replay.last = Some(last as usize),
                    None => return Err(bad("option `last` must be a whole number, 0 or more")),
                },
                ("since", value) => match Position::deserialize(value) {
                    Ok(since) => read.replay.since = Some(since),
                    Err(_) => {
                        let message =
                            "option `since` must be the {epoch, offset} of a message or an ack";
                        return Err(bad(message));
                    }
                },
                _ => {
                    let message = format!(
                        "option `{name}` is unknown; use meta, last, since, latest or maxRate"
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

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};
    use serde_json::{Map, json};

    use super::*;

    /// Arbitrary JSON in which the options' names occur more often than by chance.
    fn value() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<f64>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            any::<u64>().prop_map(Json::from),
            ".{0,300}".prop_map(Json::from),
        ];
        let name = prop_oneof!["meta|last|since|latest|maxRate|epoch|offset", ".{0,9}"];
        leaf.prop_recursive(3, 20, 5, move |inner| {
            prop_oneof![
                vec(inner.clone(), 0..5).prop_map(Json::from),
                vec((name.clone(), inner), 0..5)
                    .prop_map(|entries| entries.into_iter().collect::<Map<_, _>>().into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn arbitrary_arguments_are_parsed_or_refused(args in vec(value(), 0..4)) {
            if let Ok(room) = room(&args) {
                prop_assert!(Rooms::check_name(&room).is_ok());
            }
            if let Ok(pattern) = pattern(&args) {
                prop_assert!(pattern.stars() <= MAX_STARS);
            }
            for argument in &args {
                match Options::read(Some(argument)) {
                    Ok(options) => {
                        let ticks = Duration::from_millis(10)..=Duration::from_secs(10);
                        let fits = options.tick.is_none_or(|tick| ticks.contains(&tick));
                        prop_assert!(fits);
                    }
                    Err(refusal) => prop_assert!(!refusal.message.is_empty()),
                }
            }
        }

        #[test]
        fn valid_options_are_parsed(
            meta: bool,
            latest: bool,
            last in option::of(0usize..1_000_000),
            since in option::of(("[0-9a-f]{12}", any::<u64>())),
            rate in option::of(0.1..100.0f64),
        ) {
            let position = |(epoch, offset): (String, u64)| {
                Position { epoch: epoch.into(), offset }
            };
            let since = since.map(position);
            let argument = json!({
                "meta": meta, "latest": latest, "last": last, "since": since, "maxRate": rate,
            });
            let tick = rate.map(|rate| Duration::from_secs_f64(1.0 / rate));
            let meant = Options { meta, latest, tick, replay: ReplayRequest { last, since, appends: false } };
            prop_assert_eq!(Options::read(Some(&argument)), Ok(meant));
        }
    }
}
