use ::ring::{
    hmac,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
    },
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::config::{Settings, Tokens};

const SECRET: &str = "a secret of thirty-two bytes, ok";
/// A day in 2026, in seconds since the Unix epoch.
const NOW: u64 = 1_780_000_000;

/// A key that signs tokens.
enum Issuer {
    Secret(hmac::Algorithm, Vec<u8>),
    Elliptic(EcdsaKeyPair),
    Edwards(Ed25519KeyPair),
}

impl Issuer {
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Secret(algorithm, key) => {
                hmac::sign(&hmac::Key::new(*algorithm, key), message).as_ref().to_vec()
            }
            Self::Elliptic(key) => {
                key.sign(&SystemRandom::new(), message).expect("signed").as_ref().to_vec()
            }
            Self::Edwards(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        self.token_of(&header.to_string(), &claims.to_string())
    }

    /// Signs a token of raw JSON texts.
    fn token_of(&self, header: &str, claims: &str) -> String {
        let encode = |part: &str| BASE64_URL_SAFE_NO_PAD.encode(part);
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }
}

fn shared(algorithm: hmac::Algorithm) -> Issuer {
    Issuer::Secret(algorithm, SECRET.into())
}

fn elliptic(algorithm: &'static EcdsaSigningAlgorithm) -> (Issuer, String) {
    let random = SystemRandom::new();
    let der = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
    let key = EcdsaKeyPair::from_pkcs8(algorithm, der.as_ref(), &random).expect("a key");
    let point = key.public_key().as_ref().to_vec();
    // DER prefix of the SubjectPublicKeyInfo of a P-256 or a P-384 point.
    let head: &[u8] = if point.len() == 65 {
        &[
            0x30, 0x59, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86,
            0x48, 0xce, 0x3d, 3, 1, 7, 3, 0x42, 0,
        ]
    } else {
        &[
            0x30, 0x76, 0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4,
            0, 0x22, 3, 0x62, 0,
        ]
    };
    (Issuer::Elliptic(key), pem(&[head, &point].concat()))
}

fn edwards() -> (Issuer, String) {
    let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
    let key = Ed25519KeyPair::from_pkcs8(der.as_ref()).expect("a key");
    let head = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
    let public = pem(&[&head[..], key.public_key().as_ref()].concat());
    (Issuer::Edwards(key), public)
}

fn pem(der: &[u8]) -> String {
    let text = base64::prelude::BASE64_STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

fn auth(change: impl FnOnce(&mut Settings)) -> Auth {
    let mut settings = Settings::default();
    change(&mut settings);
    Auth::new(&Config::try_from(settings).expect("valid settings"))
}

fn secretive() -> Auth {
    auth(|settings| settings.jwt_secret = Some(SECRET.into()))
}

fn public(pem: &str) -> Auth {
    auth(|settings| settings.jwt_public_key = Some(pem.into()))
}

fn claims() -> Value {
    json!({ "exp": NOW + 3600, "rooms": ["device:*"], "publish": ["in:?"] })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn read(auth: &Auth, token: &str) -> Result<Grant, BadToken> {
    auth.viewer(Some(token), NOW * 1000)
}

fn hs256(claims: &Value) -> String {
    shared(hmac::HMAC_SHA256).token(&json!({ "alg": "HS256", "typ": "JWT" }), claims)
}

#[test]
fn the_kind_of_the_key_decides_which_algorithms_are_accepted() {
    let (p256, p256_key) = elliptic(&ECDSA_P256_SHA256_FIXED_SIGNING);
    let (p384, p384_key) = elliptic(&ECDSA_P384_SHA384_FIXED_SIGNING);
    let (ed25519, ed25519_key) = edwards();
    let secrets = || {
        ["HS256", "HS384", "HS512"].into_iter().zip([
            hmac::HMAC_SHA256,
            hmac::HMAC_SHA384,
            hmac::HMAC_SHA512,
        ])
    };
    let keys = [
        (secretive(), vec!["HS256", "HS384", "HS512"]),
        (public(&p256_key), vec!["ES256"]),
        (public(&p384_key), vec!["ES384"]),
        (public(&ed25519_key), vec!["EdDSA"]),
    ];
    let mut issuers: Vec<(&str, Issuer)> =
        secrets().map(|(name, hmac)| (name, shared(hmac))).collect();
    issuers.extend([("ES256", p256), ("ES384", p384), ("EdDSA", ed25519)]);
    // Tokens signed with a public key as an HMAC secret must be refused.
    for key in [&p256_key, &p384_key, &ed25519_key] {
        issuers.extend(
            secrets().map(|(name, hmac)| (name, Issuer::Secret(hmac, key.as_bytes().to_vec()))),
        );
    }
    let names = [
        "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256",
        "ES384", "EdDSA",
    ];
    for (place, (auth, right)) in keys.iter().enumerate() {
        for (nth, (signed, issuer)) in issuers.iter().enumerate() {
            for claimed in names {
                let token = issuer.token(&json!({ "alg": claimed }), &claims());
                let ours = nth < 6 && right.contains(signed) && claimed == *signed;
                let found = read(auth, &token);
                assert_eq!(
                    found.is_ok(),
                    ours,
                    "key {place}, issuer {nth} of {signed} says {claimed}: {found:?}"
                );
                let expected = if right.contains(&claimed) {
                    BadToken::Signature
                } else {
                    BadToken::Algorithm
                };
                assert!(ours || found == Err(expected), "key {place}, {signed}, {claimed}");
            }
        }
    }
}

#[test]
fn the_algorithm_none_and_unknown_ones_are_refused() {
    let (_, key) = edwards();
    for auth in [secretive(), public(&key)] {
        for name in ["none", "None", "NONE", "nOnE", "", "HS257", "ES512"] {
            let encode = |part: &Value| BASE64_URL_SAFE_NO_PAD.encode(part.to_string());
            let token = format!("{}.{}.", encode(&json!({ "alg": name })), encode(&claims()));
            assert_eq!(read(&auth, &token), Err(BadToken::Malformed), "{name}");
            let signed = shared(hmac::HMAC_SHA256).token(&json!({ "alg": name }), &claims());
            assert_eq!(read(&auth, &signed), Err(BadToken::Malformed), "{name}");
        }
    }
}

#[test]
fn times_are_checked_with_a_leeway_of_30_s() {
    let auth = secretive();
    let late = |seconds: u64| hs256(&with("exp", (NOW - seconds).into()));
    let early = |seconds: u64| hs256(&with("nbf", (NOW + seconds).into()));
    let ends = |token: String| read(&auth, &token).map(|grant| grant.ends);
    let at = |seconds: u64| Ok(Some(seconds * 1000));
    assert_eq!(ends(hs256(&claims())), at(NOW + 3600));
    assert_eq!(ends(hs256(&with("exp", (NOW + 1).into()))), at(NOW + 1));
    // A token that has just expired is valid until the leeway is over.
    assert_eq!(ends(late(0)), at(NOW + 30));
    assert_eq!(ends(late(29)), at(NOW + 1));
    assert_eq!(ends(late(30)), Err(BadToken::Expired(30)));
    assert_eq!(ends(late(3600)), Err(BadToken::Expired(3600)));
    assert_eq!(ends(late(NOW)), Err(BadToken::Expired(NOW)));
    assert_eq!(ends(early(0)), at(NOW + 3600));
    assert_eq!(ends(early(30)), at(NOW + 3600));
    assert_eq!(ends(early(31)), Err(BadToken::NotYet(31)));
    let fraction = |name: &str, value: f64| hs256(&with(name, value.into()));
    assert_eq!(ends(fraction("exp", NOW as f64 + 0.5)), Ok(Some(NOW * 1000 + 500)));
    assert_eq!(ends(fraction("nbf", NOW as f64 + 30.5)), Err(BadToken::NotYet(31)));
    assert_eq!(ends(fraction("exp", 1e300)), Ok(Some(u64::MAX)));
    assert_eq!(ends(hs256(&with("exp", u64::MAX.into()))), Ok(Some(u64::MAX)));
    for name in ["exp", "nbf"] {
        for wrong in [json!("soon"), json!(true), json!(-1)] {
            let found = ends(hs256(&with(name, wrong.clone())));
            assert_eq!(found, Err(BadToken::Claim(name.to_owned())), "{wrong}");
        }
        for wrong in [json!([NOW + 60]), json!({}), json!({ "a": NOW + 60 })] {
            assert!(ends(hs256(&with(name, wrong.clone()))).is_err(), "{wrong}");
        }
    }
    let mut claims = claims();
    claims["exp"] = Value::Null;
    assert_eq!(ends(hs256(&claims)), Err(BadToken::NeverExpires));
    claims.as_object_mut().expect("an object").remove("exp");
    assert_eq!(ends(hs256(&claims)), Err(BadToken::NeverExpires));
    // `iat` is not checked.
    assert_eq!(ends(hs256(&with("iat", json!("whenever")))), at(NOW + 3600));
}

#[test]
fn a_grant_expires() {
    let grant = read(&secretive(), &hs256(&claims())).expect("a valid token");
    let ends = (NOW + 3600) * 1000;
    assert_eq!(grant.clone().still(ends - 1), Ok(grant.clone()));
    assert_eq!(grant.still(ends + 2000), Err(BadToken::Expired(2)));
}

#[test]
fn audience_and_issuer_are_checked_if_they_are_set() {
    let strict = auth(|settings| {
        settings.jwt_secret = Some(SECRET.into());
        settings.jwt_audience = Some("api://rooms".into());
        settings.jwt_issuer = Some("https://issuer.example".into());
    });
    let table = [
        (json!("api://rooms"), json!("https://issuer.example"), Ok(())),
        (json!(["other", "api://rooms"]), json!("https://issuer.example"), Ok(())),
        (json!(["other"]), json!("https://issuer.example"), Err(BadToken::Audience)),
        (json!("api://rooms/"), json!("https://issuer.example"), Err(BadToken::Audience)),
        (json!(7), json!("https://issuer.example"), Err(BadToken::Audience)),
        (json!([]), json!("https://issuer.example"), Err(BadToken::Audience)),
        (Value::Null, json!("https://issuer.example"), Err(BadToken::Audience)),
        (json!("api://rooms"), json!("https://evil.example"), Err(BadToken::Issuer)),
        (json!("api://rooms"), json!({}), Err(BadToken::Issuer)),
        (json!("api://rooms"), Value::Null, Err(BadToken::Issuer)),
    ];
    for (audience, issuer, expected) in table {
        let mut claims = with("aud", audience.clone());
        claims["iss"] = issuer.clone();
        assert_eq!(read(&strict, &hs256(&claims)).map(drop), expected, "{audience} {issuer}");
        assert_eq!(read(&secretive(), &hs256(&claims)).map(drop), Ok(()), "{audience} {issuer}");
    }
}

#[test]
fn only_listed_rooms_and_channels_are_allowed() {
    let auth = secretive();
    let table: &[(Value, &[&str], &[&str])] = &[
        (json!(["device:*"]), &["device:1", "device:"], &["device", "other", "*"]),
        (json!(["a", "b?"]), &["a", "b1"], &["b", "c"]),
        (json!("single"), &["single"], &["singles"]),
        (json!(["*"]), &["anything"], &[]),
        (json!([]), &[], &["a", ""]),
        (Value::Null, &[], &["a"]),
        (json!([""]), &[], &["a"]),
    ];
    for (rooms, allowed, forbidden) in table {
        let grant = read(&auth, &hs256(&with("rooms", rooms.clone()))).expect("a valid token");
        assert!(allowed.iter().all(|room| grant.may_join(room)), "{rooms}");
        assert!(!forbidden.iter().any(|room| grant.may_join(room)), "{rooms}");
        let grant = read(&auth, &hs256(&with("publish", rooms.clone()))).expect("a valid token");
        assert!(allowed.iter().all(|room| grant.may_publish(room)), "{rooms}");
        assert!(!forbidden.iter().any(|room| grant.may_publish(room)), "{rooms}");
    }
    for (claim, wrong) in [("rooms", json!([1])), ("rooms", json!({})), ("publish", json!([["a"]]))]
    {
        let found = read(&auth, &hs256(&with(claim, wrong)));
        assert_eq!(found, Err(BadToken::Claim(claim.into())));
    }
    let none = hs256(&json!({ "exp": NOW + 60 }));
    assert!(!read(&auth, &none).expect("a valid token").may_join("device:1"));
}

#[test]
fn a_token_with_a_repeated_name_is_refused() {
    let strict = auth(|settings| {
        settings.jwt_secret = Some(SECRET.into());
        settings.jwt_audience = Some("us".into());
    });
    let head = r#""alg":"HS256""#;
    let body = format!(r#""exp":{},"aud":"us","rooms":["a"]"#, NOW + 60);
    for (more_head, more_body, name) in [
        ("", String::new(), None),
        (r#","alg":"HS256""#, String::new(), Some("alg")),
        (r#","typ":"a","typ":"b""#, String::new(), Some("typ")),
        ("", format!(r#","exp":{}"#, NOW + 60), Some("exp")),
        ("", r#","aud":"us""#.to_owned(), Some("aud")),
        ("", r#","rooms":["*"]"#.to_owned(), Some("rooms")),
        ("", r#","ro\u006fms":["*"]"#.to_owned(), Some("rooms")),
        ("", r#","publish":[],"publish":["*"]"#.to_owned(), Some("publish")),
        ("", r#","x":{"a":1},"y":{"a":1}"#.to_owned(), None),
        ("", r#","x":[{"a":1,"a":1}]"#.to_owned(), Some("a")),
    ] {
        let (head, body) = (format!("{{{head}{more_head}}}"), format!("{{{body}{more_body}}}"));
        let found = read(&strict, &shared(hmac::HMAC_SHA256).token_of(&head, &body));
        let expected = name.map_or(Ok(()), |name| Err(BadToken::Repeated(name.to_owned())));
        assert_eq!(found.map(drop), expected, "{head} {body}");
    }
}

#[test]
fn the_claim_of_the_rooms_can_be_configured() {
    let entra = auth(|settings| {
        settings.jwt_secret = Some(SECRET.into());
        settings.jwt_rooms_claim = "roles".into();
    });
    let grant = read(&entra, &hs256(&with("roles", json!(["hall:*"])))).expect("a valid token");
    assert!(grant.may_join("hall:1") && !grant.may_join("device:1") && grant.may_publish("in:1"));
}

#[test]
fn malformed_forged_and_oversized_tokens_are_refused() {
    let auth = secretive();
    let good = hs256(&claims());
    let (head, rest) = good.split_once('.').expect("three parts");
    let (body, signature) = rest.split_once('.').expect("three parts");
    let mut other = claims();
    other["rooms"] = json!(["*"]);
    let forged = BASE64_URL_SAFE_NO_PAD.encode(other.to_string());
    let huge = hs256(&with("rooms", json!(vec!["x"; MAX_TOKEN])));
    let critical = json!({ "alg": "HS256", "crit": ["b64"], "b64": false });
    let array = shared(hmac::HMAC_SHA256).token(&json!({ "alg": "HS256" }), &json!([1]));
    for (token, expected) in [
        ("", BadToken::Malformed),
        ("..", BadToken::Malformed),
        (head, BadToken::Malformed),
        (&format!("{head}.{body}"), BadToken::Malformed),
        (&format!("{good}."), BadToken::Malformed),
        (&format!("{good}.{signature}"), BadToken::Malformed),
        (&format!("{head}.{body}."), BadToken::Signature),
        (&format!("{head}.{forged}.{signature}"), BadToken::Signature),
        (&format!("{head}.{body}.{}", &signature[..20]), BadToken::Malformed),
        (&format!("{head}.{body}.{signature}="), BadToken::Malformed),
        (&format!(" {good}"), BadToken::Malformed),
        (&array, BadToken::Malformed),
        (&shared(hmac::HMAC_SHA256).token(&critical, &claims()), BadToken::Malformed),
        (
            &Issuer::Secret(hmac::HMAC_SHA256, b"another".to_vec())
                .token(&json!({ "alg": "HS256" }), &claims()),
            BadToken::Signature,
        ),
        (&huge, BadToken::TooLong),
        (&"x".repeat(1 << 20), BadToken::TooLong),
    ] {
        let found = read(&auth, token).map(drop);
        let text: String = token.chars().take(100).collect();
        assert!(
            matches!(found, Err(BadToken::Malformed | BadToken::Signature | BadToken::TooLong)),
            "{text}"
        );
        assert!(
            found == Err(expected.clone()) || expected == BadToken::Malformed,
            "{text}: {found:?}"
        );
    }
    assert_eq!(auth.viewer(None, NOW * 1000), Err(BadToken::Missing));
}

#[test]
fn without_a_key_all_rooms_are_open_and_publishing_is_disabled() {
    let open = auth(|_| ());
    assert!(!open.wants_tokens() && !open.has_publishers());
    for token in [None, Some("whatever")] {
        let grant = open.viewer(token, NOW * 1000).expect("a valid token");
        assert!(grant.may_join("any room") && grant.ends.is_none());
        assert!(!grant.may_publish("any room") && grant.publish_patterns().is_empty());
    }
}

#[test]
fn a_client_is_told_the_patterns_of_channels_that_it_may_publish_on() {
    let patterns = |auth: &Auth, token: Option<&str>| {
        auth.viewer(token, NOW * 1000).expect("a valid token").publish_patterns().to_vec()
    };
    let signed = |publish: Value| hs256(&with("publish", publish));
    let long = "x".repeat(300);
    for (claim, told) in [
        (json!(["in:?", "", "out"]), vec!["in:?", "out"]),
        (json!("single"), vec!["single"]),
        (json!(null), vec![]),
        (json!([]), vec![]),
        // Three of them fit into 1 KiB.
        (json!([long, long, long, long]), vec![&*long; 3]),
        (json!(["\"".repeat(600), "a"]), vec![]),
    ] {
        assert_eq!(patterns(&secretive(), Some(&signed(claim.clone()))), told, "{claim}");
    }
    let fixed = auth(|settings| settings.publish_token = Some("one,two".into()));
    assert_eq!(patterns(&fixed, Some("two")), ["*"]);
    for token in [None, Some("three"), Some("")] {
        assert!(patterns(&fixed, token).is_empty(), "{token:?}");
    }
}

#[test]
fn fixed_tokens_allow_all_channels_and_jwts_those_they_list() {
    let both = auth(|settings| {
        settings.publish_token = Some("one,two".into());
        settings.jwt_secret = Some(SECRET.into());
    });
    let publisher = |token| both.publisher(token, NOW * 1000);
    for token in ["one", "two"] {
        assert!(publisher(Some(token)).expect("a valid token").may_publish("anywhere"));
        // A fixed token does not allow any room.
        assert_eq!(read(&both, token), Err(BadToken::Malformed));
    }
    let token = hs256(&claims());
    let grant = publisher(Some(&token)).expect("a valid token");
    assert!(grant.may_publish("in:1") && !grant.may_publish("device:1"));
    assert_eq!(publisher(None), Err(BadToken::Missing));
    for wrong in ["", "on", "one,two", "onee", "ONE"] {
        assert_eq!(publisher(Some(wrong)).map(drop), Err(BadToken::Malformed), "{wrong}");
    }
    let fixed = auth(|settings| settings.publish_token = Some("one".into()));
    assert_eq!(fixed.publisher(Some("two"), 0), Err(BadToken::Unknown));
    assert!(!fixed.wants_tokens());
}

#[test]
fn signed_tokens_are_accepted() {
    let mut settings = Settings { jwt_secret: Some(SECRET.into()), ..Settings::default() };
    settings.jwt_audience = Some("us".into());
    settings.jwt_issuer = Some("ourselves".into());
    settings.jwt_rooms_claim = "roles".into();
    let config = Config::try_from(settings).expect("valid settings");
    let tokens: &Tokens = config.tokens.as_ref().expect("a key");
    let ttl = std::time::Duration::from_secs(60);
    let said = Claims { rooms: vec!["a*".into()], publish: vec!["b".into()], ttl };
    let token = sign(tokens, &said).expect("signed");
    let now = crate::clock::now();
    let grant = Auth::new(&config).viewer(Some(&token), now).expect("a valid token");
    assert!(grant.may_join("ab") && grant.may_publish("b") && !grant.may_publish("ab"));
    assert!(grant.ends.is_some_and(|ends| ends > now && ends <= now + 61_000));
    let (_, key) = edwards();
    let public = Settings { jwt_public_key: Some(key), ..Settings::default() };
    let public = Config::try_from(public).expect("valid settings").tokens.expect("a key");
    assert!(sign(&public, &said).is_err());
}

proptest! {
    #[test]
    fn arbitrary_text_is_refused(text in "\\PC{0,200}") {
        prop_assert!(read(&secretive(), &text).is_err());
    }

    #[test]
    fn a_changed_token_is_refused(at: proptest::sample::Index, byte in "[A-Za-z0-9_.-]") {
        let good = hs256(&claims());
        let mut token = good.clone();
        let at = at.index(token.len());
        token.replace_range(at..=at, &byte);
        prop_assert_eq!(read(&secretive(), &token).is_ok(), token == good);
    }

    #[test]
    fn reading_any_claims_does_not_panic(names in proptest::collection::vec("exp|nbf|rooms|publish|aud|iss", 0..6), number: f64, text in "\\PC{0,9}") {
        let mut claims = claims();
        for (i, name) in names.iter().enumerate() {
            claims[name] = [json!(number), json!(text), json!([text]), json!([number]), Value::Null][i % 5].clone();
        }
        let _ = read(&secretive(), &hs256(&claims));
    }
}
