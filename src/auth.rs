//! Access control: what a token allows. Callers pass in the token and the time, so nothing here
//! reads clocks or requests.
//!
//! Without a JWT key, every client may connect and join every room. With one, a client needs a JWT,
//! and may join only the rooms that its claims list. Publishing over HTTP needs a JWT that lists
//! the channel, or one of the fixed tokens in `PUBLISH_TOKEN`; if neither is set, it is disabled.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use subtle::{Choice, ConstantTimeEq};
use tracing::info;

use crate::{
    config::{AccessKeys, Config, Secret},
    glob::Pattern,
    log_limit::LogLimit,
};

mod key;
mod repeated;
mod ring;

use key::Key;
pub use key::{Claims, sign};

/// Allowance for clock differences, in ms: a token is accepted for this long after `exp` and before
/// `nbf`.
const LEEWAY: u64 = 30_000;
/// Maximum bytes of a token; tokens with hundreds of roles are smaller.
const MAX_TOKEN: usize = 8 << 10;
/// Maximum bytes of the list of patterns that a client is told, as JSON: it is in the ack of each join.
const MAX_LISTED: usize = 1 << 10;

/// Purpose of a token in log lines: joining rooms.
pub const WATCHING: &str = "watching";
/// Purpose of a token in log lines: publishing over HTTP.
pub const PUBLISHING: &str = "publishing";

/// A few lines a minute are enough to see what is wrong with the tokens that an issuer hands out.
static REFUSED: LogLimit = LogLimit::new(5);

/// Checks tokens against the keys in use.
///
/// Shared by all routes and sockets. [`Self::replace`] swaps the keys while the server runs; checks
/// under way finish with the keys that they began with.
pub struct Auth {
    keys: ArcSwap<Keys>,
}

/// The keys and fixed tokens of one state of the settings.
struct Keys {
    settings: AccessKeys,
    key: Option<Key>,
}

impl Keys {
    fn new(settings: AccessKeys) -> Self {
        Self { key: settings.tokens.as_ref().map(Key::new), settings }
    }

    /// Whether this is one of the fixed tokens.
    fn has_fixed(&self, token: &str) -> bool {
        // All tokens are compared, each in constant time, so that the duration reveals nothing.
        let same = |known: &Secret| known.expose().as_bytes().ct_eq(token.as_bytes());
        let known = self.settings.publish_tokens.iter();
        known.map(same).fold(Choice::from(0), |any, same| any | same).into()
    }
}

impl Auth {
    /// Uses the JWT key and the publish tokens of `config`.
    pub fn new(config: &Config) -> Self {
        let (tokens, publish_tokens) = (config.tokens.clone(), config.publish_tokens.clone());
        let keys = Keys::new(AccessKeys { tokens, publish_tokens });
        Self { keys: ArcSwap::from_pointee(keys) }
    }

    /// Replaces the keys for all tokens checked from now on, and returns whether they differ from
    /// the previous ones. Grants that were given before stay valid until their tokens expire.
    pub fn replace(&self, settings: AccessKeys) -> bool {
        let changed = self.keys.load().settings != settings;
        if changed {
            self.keys.store(Arc::new(Keys::new(settings)));
        }
        changed
    }

    /// Whether clients need a token to connect.
    pub fn wants_tokens(&self) -> bool {
        self.keys.load().key.is_some()
    }

    /// Whether any token could allow publishing over HTTP; if not, the route does not exist.
    pub fn has_publishers(&self) -> bool {
        self.wants_tokens() || !self.keys.load().settings.publish_tokens.is_empty()
    }

    /// Returns what this token allows a viewer at the time `now`, in ms since the Unix epoch.
    ///
    /// Without a JWT key, every room is allowed, and the token only says whether the client may
    /// publish: it may with a fixed token.
    ///
    /// # Errors
    ///
    /// Fails if a token is needed and this one is missing, not valid now or not signed by the key.
    pub fn viewer(&self, token: Option<&str>, now: u64) -> Result<Grant, BadToken> {
        let keys = self.keys.load();
        match &keys.key {
            None if token.is_some_and(|token| keys.has_fixed(token)) => Ok(Grant::everything()),
            None => Ok(Grant::all_rooms()),
            Some(key) => key.read(token.ok_or(BadToken::Missing)?, now),
        }
    }

    /// Returns where this token may publish over HTTP at the time `now`, in ms since the Unix
    /// epoch: on every channel with a fixed token, on the listed ones with a JWT.
    ///
    /// # Errors
    ///
    /// Fails if the token is missing, or is neither a fixed token nor a JWT that is valid now.
    pub fn publisher(&self, token: Option<&str>, now: u64) -> Result<Grant, BadToken> {
        let token = token.ok_or(BadToken::Missing)?;
        let keys = self.keys.load();
        match &keys.key {
            _ if keys.has_fixed(token) => Ok(Grant::everything()),
            None => Err(BadToken::Unknown),
            Some(key) => key.read(token, now),
        }
    }
}

/// What a token allows: the rooms to join, the channels to publish on, and until when.
///
/// A socket keeps its grant until the token is renewed or expires.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    rooms: Allowed,
    publish: Allowed,
    /// The patterns in `publish`, for the client.
    listed: Arc<[String]>,
    /// When the grant expires, in ms since the Unix epoch; `None` = never.
    pub ends: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
enum Allowed {
    Everything,
    /// The names that at least one of these glob patterns matches.
    Matching(Arc<[Pattern]>),
}

impl Grant {
    fn everything() -> Self {
        Self { publish: Allowed::Everything, listed: ["*".to_owned()].into(), ..Self::all_rooms() }
    }

    /// Every room, and no publishing.
    fn all_rooms() -> Self {
        // The default of an `Arc` of a slice is shared, so this takes no memory of its own.
        let publish = Allowed::Matching(Arc::default());
        Self { rooms: Allowed::Everything, publish, listed: Arc::default(), ends: None }
    }

    /// Returns the grant again if it has not expired at the time `now`, in ms since the Unix epoch.
    ///
    /// # Errors
    ///
    /// Returns [`BadToken::Expired`] otherwise.
    pub fn still(self, now: u64) -> Result<Self, BadToken> {
        match self.ends {
            Some(ends) if now >= ends => Err(BadToken::Expired((now - ends) / 1000)),
            _ => Ok(self),
        }
    }

    /// Whether the client may join this room.
    pub fn may_join(&self, room: &str) -> bool {
        self.rooms.covers(room)
    }

    /// The patterns of the channels that the client may publish on, those that fit into 1 KiB of
    /// JSON. For the client: [`Self::may_publish`] decides.
    pub fn publish_patterns(&self) -> &[String] {
        &self.listed
    }

    /// Whether the client may publish on this channel.
    pub fn may_publish(&self, channel: &str) -> bool {
        self.publish.covers(channel)
    }
}

impl Allowed {
    fn covers(&self, name: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Matching(patterns) => {
                patterns.iter().any(|pattern| pattern.matches(name.as_bytes()))
            }
        }
    }
}

/// Why a token was refused. [`fmt::Display`] says what to do, for the developer of the client.
#[derive(Clone, Debug, PartialEq)]
pub enum BadToken {
    /// The request has no token.
    Missing,
    /// There is no JWT key, and the token is not one of the fixed ones.
    Unknown,
    /// It is longer than 8 KiB.
    TooLong,
    /// It is not a JWT, or it has critical header parameters, none of which is supported.
    Malformed,
    /// This name occurs twice in one object of its header or claims.
    Repeated(String),
    /// Its algorithm does not fit the kind of the server's key.
    Algorithm,
    /// Its signature is not by the server's key.
    Signature,
    /// It has no claim `exp`.
    NeverExpires,
    /// It expired this many seconds ago.
    Expired(u64),
    /// It becomes valid in this many seconds, by its claim `nbf`.
    NotYet(u64),
    /// Its claim `aud` does not contain `JWT_AUDIENCE`.
    Audience,
    /// Its claim `iss` is not `JWT_ISSUER`.
    Issuer,
    /// This claim has a wrong type.
    Claim(String),
}

impl BadToken {
    /// Logs the refusal; `what_for` is [`WATCHING`] or [`PUBLISHING`]. The token is never logged.
    pub fn log(&self, what_for: &'static str) {
        let problem = self.clone();
        REFUSED.line(move |left_out| info!(left_out, "refused a token for {what_for}: {problem}"));
    }
}

impl fmt::Display for BadToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str(
                "a token is needed: connect with {auth: {token}}, or send Authorization: Bearer",
            ),
            Self::Unknown => f.write_str("the token is not one of the server's PUBLISH_TOKEN"),
            Self::TooLong => write!(f, "the token is longer than {MAX_TOKEN} bytes"),
            Self::Malformed => {
                f.write_str("the token is no JWT: it needs three base64url parts with dots between")
            }
            Self::Repeated(name) => {
                write!(f, "`{name}` occurs twice in the token's header or claims: keep one")
            }
            Self::Algorithm => f.write_str(
                "the token is signed by an algorithm that does not fit the kind of the server's key",
            ),
            Self::Signature => f.write_str("the token is not signed by the server's key"),
            Self::NeverExpires => f.write_str("the token needs the claim `exp`, seconds since 1970"),
            Self::Expired(seconds) => write!(f, "the token expired {seconds} s ago: get a new one"),
            Self::NotYet(seconds) => {
                write!(f, "the token becomes valid in {seconds} s: check `nbf` and the clocks")
            }
            Self::Audience => {
                f.write_str("the token's claim `aud` is not the server's JWT_AUDIENCE")
            }
            Self::Issuer => f.write_str("the token's claim `iss` is not the server's JWT_ISSUER"),
            Self::Claim(name) => write!(f, "the token's claim `{name}` has the wrong type"),
        }
    }
}

#[cfg(test)]
mod tests;
