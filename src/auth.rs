//! May this handshake enter, join, publish? Pure: it knows neither clocks nor requests.
//!
//! Without a key, everybody may enter and join every room. With one, a JWT says who may what, and
//! nothing is allowed that it does not list. Publishing over HTTP takes a JWT too, or one of the
//! fixed tokens; without either, nobody may.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use subtle::{Choice, ConstantTimeEq};
use tracing::info;

use crate::{
    config::{AccessKeys, Config, Secret},
    glob,
    log_limit::LogLimit,
};

mod key;
mod repeated;
mod ring;

use key::Key;
pub use key::{Claims, sign};

/// For clocks that are apart, in ms: how long a token is still taken after it has expired, and how
/// long before it becomes valid.
const LEEWAY: u64 = 30_000;
/// Bytes of a token; those with hundreds of roles have less.
const MAX_TOKEN: usize = 8 << 10;

/// What tokens are for, in the log.
pub const WATCHING: &str = "watching";
/// See [`WATCHING`].
pub const PUBLISHING: &str = "publishing";

/// Few lines tell what is wrong with the tokens that are handed out.
static REFUSED: LogLimit = LogLimit::new(5);

/// Who decides.
pub struct Auth {
    keys: ArcSwap<Keys>,
}

/// What decides about access at a time.
struct Keys {
    settings: AccessKeys,
    key: Option<Key>,
}

impl Keys {
    fn new(settings: AccessKeys) -> Self {
        Self { key: settings.tokens.as_ref().map(Key::new), settings }
    }
}

impl Auth {
    /// As the settings say.
    pub fn new(config: &Config) -> Self {
        let (tokens, publish_tokens) = (config.tokens.clone(), config.publish_tokens.clone());
        let keys = Keys::new(AccessKeys { tokens, publish_tokens });
        Self { keys: ArcSwap::from_pointee(keys) }
    }

    /// Takes other keys into use, for all tokens that are looked at from now on; whether they are
    /// others than before. What tokens have allowed before goes on until they expire.
    pub fn replace(&self, settings: AccessKeys) -> bool {
        let changed = self.keys.load().settings != settings;
        if changed {
            self.keys.store(Arc::new(Keys::new(settings)));
        }
        changed
    }

    /// Whether nobody gets in without a token.
    pub fn wants_tokens(&self) -> bool {
        self.keys.load().key.is_some()
    }

    /// Whether somebody could be allowed to publish over HTTP.
    pub fn has_publishers(&self) -> bool {
        self.wants_tokens() || !self.keys.load().settings.publish_tokens.is_empty()
    }

    /// What somebody with this token may watch, at a time in ms since the Unix epoch.
    pub fn viewer(&self, token: Option<&str>, now: u64) -> Result<Grant, BadToken> {
        match &self.keys.load().key {
            None => Ok(Grant::everything()),
            Some(key) => key.read(token.ok_or(BadToken::Missing)?, now),
        }
    }

    /// Where somebody with this token may publish over HTTP.
    pub fn publisher(&self, token: Option<&str>, now: u64) -> Result<Grant, BadToken> {
        let token = token.ok_or(BadToken::Missing)?;
        // All are compared, and each as a whole: the time tells nothing about them.
        let same = |known: &Secret| known.expose().as_bytes().ct_eq(token.as_bytes());
        let keys = self.keys.load();
        let publish_tokens = &keys.settings.publish_tokens;
        let fixed = publish_tokens.iter().map(same).fold(Choice::from(0), |any, same| any | same);
        match &keys.key {
            _ if fixed.into() => Ok(Grant::everything()),
            None => Err(BadToken::Unknown),
            Some(key) => key.read(token, now),
        }
    }
}

/// What somebody may do, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    rooms: Allowed,
    publish: Allowed,
    /// When it ends, in ms since the Unix epoch; `None` = never.
    pub ends: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
enum Allowed {
    Everything,
    /// What one of these patterns matches.
    Matching(Arc<[String]>),
}

impl Grant {
    fn everything() -> Self {
        Self { rooms: Allowed::Everything, publish: Allowed::Everything, ends: None }
    }

    /// The same later, unless it has ended.
    pub fn still(self, now: u64) -> Result<Self, BadToken> {
        match self.ends {
            Some(ends) if now >= ends => Err(BadToken::Expired((now - ends) / 1000)),
            _ => Ok(self),
        }
    }

    /// Whether this room may be watched.
    pub fn may_join(&self, room: &str) -> bool {
        self.rooms.covers(room)
    }

    /// Whether this channel may be published on.
    pub fn may_publish(&self, channel: &str) -> bool {
        self.publish.covers(channel)
    }
}

impl Allowed {
    fn covers(&self, name: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Matching(patterns) => {
                patterns.iter().any(|pattern| glob::matches(pattern.as_bytes(), name.as_bytes()))
            }
        }
    }
}

/// What is wrong with a token, for the developer who sent it.
#[derive(Clone, Debug, PartialEq)]
pub enum BadToken {
    /// There is none.
    Missing,
    /// It is not one of those that are fixed.
    Unknown,
    /// It has too many bytes.
    TooLong,
    /// It is no JWT.
    Malformed,
    /// This name stands twice in its header or claims.
    Repeated(String),
    /// It is signed by an algorithm that the key is not for.
    Algorithm,
    /// The key did not sign this.
    Signature,
    /// It does not say when it expires.
    NeverExpires,
    /// It has expired, so many seconds ago.
    Expired(u64),
    /// It is not valid yet, for so many seconds.
    NotYet(u64),
    /// It is for somebody else.
    Audience,
    /// It is from somebody else.
    Issuer,
    /// A claim has another type than it should.
    Claim(String),
}

impl BadToken {
    /// Logs that it was refused: for watching or for publishing. The token itself is never logged.
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
            Self::Unknown => f.write_str("the token is not the server's PUBLISH_TOKEN"),
            Self::TooLong => write!(f, "the token is longer than {MAX_TOKEN} bytes"),
            Self::Malformed => {
                f.write_str("the token is no JWT: three parts in base64url with dots between")
            }
            Self::Repeated(name) => {
                write!(f, "`{name}` stands twice in the token's header or claims: keep one")
            }
            Self::Algorithm => f.write_str(
                "the token is signed by an algorithm that is not one of the server's key",
            ),
            Self::Signature => f.write_str("the token is not signed by the server's key"),
            Self::NeverExpires => f.write_str("the token has no claim `exp`, seconds since 1970"),
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
