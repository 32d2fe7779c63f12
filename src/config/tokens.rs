//! The settings of tokens: the key that signs them, and what else they have to say.

use x509_parser::{
    der_parser::{oid, oid::Oid},
    pem::Pem,
    prelude::FromDer,
    x509::SubjectPublicKeyInfo,
};

use super::{Check, Secret, Settings, given};

pub(super) const ROOMS_CLAIM: &str = "rooms";

/// Who may watch and publish, by JWTs.
#[derive(Clone, Debug, PartialEq)]
pub struct Tokens {
    /// Who signs them.
    pub key: TokenKey,
    /// Their claim `aud`, if it is checked.
    pub audience: Option<String>,
    /// Their claim `iss`, if it is checked.
    pub issuer: Option<String>,
    /// The claim that lists rooms.
    pub rooms_claim: String,
}

/// The key that tokens are signed with.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenKey {
    /// Shared with who signs: HS256, HS384, HS512.
    Secret(Secret),
    /// The public half.
    Public(PublicKey),
}

/// A key that signatures can be checked with.
#[derive(Clone, Debug, PartialEq)]
pub struct PublicKey {
    /// Of which kind.
    pub kind: KeyKind,
    /// As that kind is written: RSA in PKCS #1, a curve's point.
    pub bytes: Vec<u8>,
}

/// Kinds of keys. It is they that decide about the algorithm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KeyKind {
    /// RS256, PS256 and their longer sisters.
    Rsa,
    /// ES256.
    P256,
    /// ES384.
    P384,
    /// EdDSA.
    Ed25519,
}

const RSA: Oid<'static> = oid!(1.2.840.113549.1.1.1);
const ELLIPTIC: Oid<'static> = oid!(1.2.840.10045.2.1);
const P256: Oid<'static> = oid!(1.2.840.10045.3.1.7);
const P384: Oid<'static> = oid!(1.3.132.0.34);
const ED25519: Oid<'static> = oid!(1.3.101.112);

/// The settings of tokens, if there are to be any.
pub(super) fn tokens(check: &mut Check, settings: &Settings) -> Option<Tokens> {
    let secret = check.value_or_file(
        "JWT_SECRET",
        settings.jwt_secret.clone(),
        settings.jwt_secret_file.clone(),
    );
    let public = check.value_or_file(
        "JWT_PUBLIC_KEY",
        settings.jwt_public_key.clone(),
        settings.jwt_public_key_file.clone(),
    );
    // An empty key would be known to everybody.
    if secret.as_ref().is_some_and(|secret| secret.expose().is_empty()) {
        check.problem("JWT_SECRET_FILE", "is empty".to_owned());
    }
    let public =
        public.and_then(|text| check.take("JWT_PUBLIC_KEY", PublicKey::parse(text.expose())));
    let (audience, issuer) =
        (given(settings.jwt_audience.clone()), given(settings.jwt_issuer.clone()));
    let rooms_claim = settings.jwt_rooms_claim.trim();
    let rooms_claim = if rooms_claim.is_empty() { ROOMS_CLAIM } else { rooms_claim }.to_owned();
    let key = match (secret, public) {
        (Some(_), Some(_)) => {
            let problem = "JWT_SECRET is set too; tokens are signed by one of them";
            check.problem("JWT_PUBLIC_KEY", problem.to_owned());
            return None;
        }
        (Some(secret), None) => TokenKey::Secret(secret),
        (None, Some(public)) => TokenKey::Public(public),
        (None, None) => {
            for (name, value) in [("JWT_AUDIENCE", &audience), ("JWT_ISSUER", &issuer)] {
                if value.is_some() {
                    let problem = "without JWT_SECRET or JWT_PUBLIC_KEY, no token is checked";
                    check.problem(name, problem.to_owned());
                }
            }
            return None;
        }
    };
    Some(Tokens { key, audience, issuer, rooms_claim })
}

impl PublicKey {
    /// A key in PEM format. In an environment variable, `\n` may stand for line ends.
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.replace("\\n", "\n");
        let pem = Pem::iter_from_buffer(text.as_bytes()).next().and_then(Result::ok);
        let pem = pem.ok_or("is no key in PEM format: -----BEGIN PUBLIC KEY-----")?;
        match pem.label.as_str() {
            "PUBLIC KEY" => Self::from_spki(&pem.contents),
            "RSA PUBLIC KEY" => Ok(Self { kind: KeyKind::Rsa, bytes: pem.contents }),
            "CERTIFICATE" => {
                Err("is a certificate; take its key: openssl x509 -noout -pubkey".to_owned())
            }
            label if label.ends_with("PRIVATE KEY") => {
                Err("is a private key, which nobody but who signs should have; take its public half: openssl pkey -pubout".to_owned())
            }
            label => Err(format!("is a `{label}`, and should be a PUBLIC KEY")),
        }
    }

    fn from_spki(der: &[u8]) -> Result<Self, String> {
        let unknown = || "is of a kind that is not known here; RSA, P-256, P-384 and Ed25519 are";
        let (_, spki) = SubjectPublicKeyInfo::from_der(der).map_err(|_| unknown())?;
        let algorithm = spki.algorithm;
        let curve = algorithm.parameters.and_then(|parameters| parameters.oid().ok());
        let kind = match (algorithm.algorithm, curve) {
            (kind, _) if kind == RSA => KeyKind::Rsa,
            (kind, Some(curve)) if kind == ELLIPTIC && curve == P256 => KeyKind::P256,
            (kind, Some(curve)) if kind == ELLIPTIC && curve == P384 => KeyKind::P384,
            (kind, _) if kind == ED25519 => KeyKind::Ed25519,
            _ => return Err(unknown().to_owned()),
        };
        Ok(Self { kind, bytes: spki.subject_public_key.data.into_owned() })
    }
}
