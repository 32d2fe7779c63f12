//! JWTs: checking their signature and times, reading what they allow, and signing new ones.

use std::{sync::Arc, time::Duration};

use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode, errors::ErrorKind,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::{Allowed, BadToken, Grant, LEEWAY, MAX_LISTED, MAX_TOKEN, repeated, ring};
use crate::{
    clock::now,
    config::{KeyKind, PublicKey, Secret, TokenKey, Tokens},
    glob::Pattern,
};

/// The key of the settings, with the checks that each JWT has to pass.
pub struct Key {
    key: DecodingKey,
    validation: Validation,
    rooms_claim: String,
}

/// The claims that are read. Times are in seconds since the Unix epoch and may have a fraction.
#[derive(Deserialize)]
struct Read {
    exp: Option<Json>,
    nbf: Option<Json>,
    #[serde(flatten)]
    others: Map<String, Json>,
}

impl Key {
    pub fn new(tokens: &Tokens) -> Self {
        ring::install();
        // The kind of the key alone decides about the algorithms, whatever a token's header says:
        // otherwise a public key could be used as an HMAC secret.
        let (key, algorithms) = match &tokens.key {
            TokenKey::Secret(secret) => (
                DecodingKey::from_secret(secret.expose().as_bytes()),
                vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512],
            ),
            TokenKey::Public(PublicKey { kind, bytes }) => match kind {
                KeyKind::Rsa => (
                    DecodingKey::from_rsa_der(bytes),
                    vec![
                        Algorithm::RS256,
                        Algorithm::RS384,
                        Algorithm::RS512,
                        Algorithm::PS256,
                        Algorithm::PS384,
                        Algorithm::PS512,
                    ],
                ),
                KeyKind::P256 => (DecodingKey::from_ec_der(bytes), vec![Algorithm::ES256]),
                KeyKind::P384 => (DecodingKey::from_ec_der(bytes), vec![Algorithm::ES384]),
                KeyKind::Ed25519 => (DecodingKey::from_ed_der(bytes), vec![Algorithm::EdDSA]),
            },
        };
        let mut validation = Validation { algorithms, ..Validation::default() };
        // `read` checks the times itself: against the caller's clock, and with precise errors.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        // By RFC 7519, a token for another audience must be refused. Only JWT_AUDIENCE says which
        // audience this server is; without it, `aud` is not checked.
        validation.validate_aud = tokens.audience.is_some();
        if let Some(audience) = &tokens.audience {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        if let Some(issuer) = &tokens.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".to_owned());
        }
        Self { key, validation, rooms_claim: tokens.rooms_claim.clone() }
    }

    /// Returns what a token allows at the time `now`, in ms since the Unix epoch.
    pub fn read(&self, token: &str, now: u64) -> Result<Grant, BadToken> {
        if token.len() > MAX_TOKEN {
            return Err(BadToken::TooLong);
        }
        if let Some(name) = repeated::name(token) {
            return Err(BadToken::Repeated(name));
        }
        let token = decode::<Read>(token, &self.key, &self.validation)
            .map_err(|error| self.explain(error.kind()))?;
        // RFC 7515, section 4.1.11: a token with extensions that the reader does not support is
        // invalid, and none is supported here.
        if token.header.crit.is_some() {
            return Err(BadToken::Malformed);
        }
        let Read { exp, nbf, others } = token.claims;
        let expires = milliseconds("exp", exp.as_ref())?.ok_or(BadToken::NeverExpires)?;
        if now >= expires.saturating_add(LEEWAY) {
            return Err(BadToken::Expired(now.saturating_sub(expires) / 1000));
        }
        let begins = milliseconds("nbf", nbf.as_ref())?.unwrap_or_default();
        if begins > now.saturating_add(LEEWAY) {
            return Err(BadToken::NotYet(begins.saturating_sub(now).div_ceil(1000)));
        }
        // Only a token that has just expired gets the leeway, because its sender's clock may be
        // behind. All other grants end at `exp`.
        let ends = if now < expires { expires } else { expires.saturating_add(LEEWAY) };
        let publish = patterns("publish", &others)?;
        Ok(Grant {
            rooms: allowed(&patterns(&self.rooms_claim, &others)?),
            publish: allowed(&publish),
            listed: listed(&publish),
            ends: Some(ends),
        })
    }

    fn explain(&self, error: &ErrorKind) -> BadToken {
        match error {
            ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => BadToken::Algorithm,
            ErrorKind::InvalidSignature => BadToken::Signature,
            ErrorKind::InvalidAudience => BadToken::Audience,
            ErrorKind::InvalidIssuer => BadToken::Issuer,
            ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => BadToken::Audience,
            ErrorKind::MissingRequiredClaim(_) => BadToken::Issuer,
            _ => BadToken::Malformed,
        }
    }
}

/// Converts a time claim from seconds to ms; `None` if it is missing or null.
fn milliseconds(name: &str, claim: Option<&Json>) -> Result<Option<u64>, BadToken> {
    let Some(claim) = claim.filter(|claim| !claim.is_null()) else { return Ok(None) };
    let seconds = claim.as_f64().filter(|&seconds| seconds >= 0.0);
    // The cast saturates: a time beyond 64 bits becomes `u64::MAX`, which is never.
    let milliseconds = seconds.map(|seconds| (seconds * 1000.0) as u64);
    milliseconds.map(Some).ok_or_else(|| BadToken::Claim(name.to_owned()))
}

/// Reads a claim that is a list of patterns or a single one. A missing claim allows nothing.
fn patterns<'a>(name: &str, claims: &'a Map<String, Json>) -> Result<Vec<&'a str>, BadToken> {
    let patterns = match claims.get(name) {
        None | Some(Json::Null) => Some(Vec::new()),
        Some(Json::Array(list)) => list.iter().map(Json::as_str).collect(),
        Some(single) => single.as_str().map(|single| vec![single]),
    };
    patterns.ok_or_else(|| BadToken::Claim(name.to_owned()))
}

fn allowed(patterns: &[&str]) -> Allowed {
    Allowed::Matching(patterns.iter().map(|pattern| Pattern::new(pattern.as_bytes())).collect())
}

/// The patterns that match any channel, as many of the first ones as a client may be told.
fn listed(patterns: &[&str]) -> Arc<[String]> {
    let mut bytes = "[]".len();
    let fits = |pattern: &&str| {
        let encoded = serde_json::to_string(pattern).map_or(usize::MAX, |encoded| encoded.len());
        bytes = bytes.saturating_add(encoded).saturating_add(",".len());
        bytes <= MAX_LISTED
    };
    let patterns = patterns.iter().copied().filter(|pattern| !pattern.is_empty());
    patterns.take_while(fits).map(str::to_owned).collect()
}

/// The claims of a token to be signed. An empty list is left out.
pub struct Claims {
    /// Patterns of the rooms to join; the claim's name is `JWT_ROOMS_CLAIM`.
    pub rooms: Vec<String>,
    /// Patterns of the channels to publish on, in the claim `publish`.
    pub publish: Vec<String>,
    /// How long the token is valid from now on, in whole seconds.
    pub ttl: Duration,
}

/// Signs a token with `JWT_SECRET` (HS256), with audience and issuer as the settings require.
///
/// # Errors
///
/// Fails if the settings have a public key, whose private key this server does not know.
pub fn sign(tokens: &Tokens, claims: &Claims) -> anyhow::Result<String> {
    let TokenKey::Secret(secret) = &tokens.key else {
        anyhow::bail!(
            "JWT_PUBLIC_KEY can only check tokens: sign with its private key, or set JWT_SECRET instead"
        )
    };
    ring::install();
    Ok(encode(&Header::new(Algorithm::HS256), &said(tokens, claims), &secret_key(secret))?)
}

fn secret_key(secret: &Secret) -> EncodingKey {
    EncodingKey::from_secret(secret.expose().as_bytes())
}

fn said(tokens: &Tokens, claims: &Claims) -> impl Serialize {
    let begun = now() / 1000;
    let mut said = Map::new();
    let lists = [(tokens.rooms_claim.as_str(), &claims.rooms), ("publish", &claims.publish)];
    for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        said.insert(name.to_owned(), list.clone().into());
    }
    for (name, value) in [("aud", &tokens.audience), ("iss", &tokens.issuer)] {
        if let Some(value) = value {
            said.insert(name.to_owned(), value.clone().into());
        }
    }
    said.insert("iat".to_owned(), begun.into());
    said.insert("exp".to_owned(), begun.saturating_add(claims.ttl.as_secs()).into());
    said
}
