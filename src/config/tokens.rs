//! The settings of JWTs: the key that verifies them, and the claims that are checked.

use x509_parser::{
    der_parser::{oid, oid::Oid},
    pem::Pem,
    prelude::FromDer,
    x509::SubjectPublicKeyInfo,
};

use super::{Check, Secret, Settings, given};

pub(super) const ROOMS_CLAIM: &str = "rooms";

/// How JWTs are verified. A JWT allows a client to watch rooms and to publish on channels.
#[derive(Clone, Debug, PartialEq)]
pub struct Tokens {
    /// The key that verifies their signatures.
    pub key: TokenKey,
    /// Required audience (claim `aud`); `None` = it is not checked.
    pub audience: Option<String>,
    /// Required issuer (claim `iss`); `None` = it is not checked.
    pub issuer: Option<String>,
    /// Name of the claim that lists patterns of rooms.
    pub rooms_claim: String,
}

/// The key that verifies the signatures of JWTs.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenKey {
    /// Secret that is shared with the issuer, for HS256, HS384 and HS512.
    Secret(Secret),
    /// Public key; the issuer has the private key.
    Public(PublicKey),
}

/// A public key that verifies signatures.
#[derive(Clone, Debug, PartialEq)]
pub struct PublicKey {
    /// Kind of the key, which decides which algorithms are accepted.
    pub kind: KeyKind,
    /// The key in the encoding of its kind: PKCS #1 in DER for RSA, the point for a curve.
    pub bytes: Vec<u8>,
}

/// Kinds of public keys. The kind, and not the token's header, decides which algorithms are
/// accepted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KeyKind {
    /// RS256, RS384, RS512, PS256, PS384 and PS512.
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

/// The settings of JWTs; `None` if no key is set or a setting is invalid, which `check` notes.
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
    // Anyone can sign with an empty key.
    if secret.as_ref().is_some_and(|secret| secret.expose().is_empty()) {
        check.problem("JWT_SECRET_FILE", "is empty; write the secret into the file".to_owned());
    }
    let public =
        public.and_then(|text| check.take("JWT_PUBLIC_KEY", PublicKey::parse(text.expose())));
    let (audience, issuer) =
        (given(settings.jwt_audience.clone()), given(settings.jwt_issuer.clone()));
    let rooms_claim = settings.jwt_rooms_claim.trim();
    let rooms_claim = if rooms_claim.is_empty() { ROOMS_CLAIM } else { rooms_claim }.to_owned();
    let key = match (secret, public) {
        (Some(_), Some(_)) => {
            let problem = "JWT_SECRET is set too; keep the one that tokens are signed with";
            check.problem("JWT_PUBLIC_KEY", problem.to_owned());
            return None;
        }
        (Some(secret), None) => TokenKey::Secret(secret),
        (None, Some(public)) => TokenKey::Public(public),
        (None, None) => {
            for (name, value) in [("JWT_AUDIENCE", &audience), ("JWT_ISSUER", &issuer)] {
                if value.is_some() {
                    let problem = "without JWT_SECRET or JWT_PUBLIC_KEY, no token is checked; set one of them";
                    check.problem(name, problem.to_owned());
                }
            }
            return None;
        }
    };
    Some(Tokens { key, audience, issuer, rooms_claim })
}

impl PublicKey {
    /// Parses a key in PEM format. Line ends may be written as `\n`, as in environment variables.
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.replace("\\n", "\n");
        let pem = Pem::iter_from_buffer(text.as_bytes()).next().and_then(Result::ok);
        let pem =
            pem.ok_or("is not a key in PEM format, which begins with -----BEGIN PUBLIC KEY-----")?;
        match pem.label.as_str() {
            "PUBLIC KEY" => Self::from_spki(&pem.contents),
            "RSA PUBLIC KEY" => Ok(Self { kind: KeyKind::Rsa, bytes: pem.contents }),
            "CERTIFICATE" => {
                Err("is a certificate; extract its public key: openssl x509 -noout -pubkey".to_owned())
            }
            label if label.ends_with("PRIVATE KEY") => {
                Err("is a private key, which only the issuer of tokens should have; extract its public key: openssl pkey -pubout".to_owned())
            }
            label => Err(format!("is a `{label}`; write a PUBLIC KEY")),
        }
    }

    fn from_spki(der: &[u8]) -> Result<Self, String> {
        let unknown = || "is of an unsupported kind; use RSA, P-256, P-384 or Ed25519";
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
