//! Responses to the TLS-ALPN-01 and HTTP-01 challenges of a CA, built with rustls-acme.

use std::{collections::HashMap, sync::Arc};

use anyhow::Context;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use rustls::sign::CertifiedKey;
use rustls_acme::acme::{Account, Challenge, ChallengeType, Directory};

/// The responses to all challenges of one order: certificates by host for TLS-ALPN-01, texts by
/// token for HTTP-01.
pub struct Answers {
    account: Account,
    handshakes: HashMap<String, Arc<CertifiedKey>>,
    tokens: HashMap<String, String>,
}

impl Answers {
    /// `key` is the account's private key in PKCS #8: responses are derived from it.
    pub fn new(key: &[u8]) -> anyhow::Result<Self> {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let key_pair = EcdsaKeyPair::from_pkcs8(algorithm, key, &SystemRandom::new())
            .context("the ACME account's key cannot be used")?;
        // No request is sent with this account, so the CA's URLs stay empty.
        let [new_nonce, new_account, new_order, kid] = Default::default();
        let directory = Directory { new_nonce, new_account, new_order };
        let account = Account { key_pair, directory, kid };
        Ok(Self { account, handshakes: HashMap::new(), tokens: HashMap::new() })
    }

    /// Adds the certificate for the CA's TLS-ALPN-01 handshake with this host name at port 443.
    pub fn add_tls_alpn_01(&mut self, host: &str, token: &str) -> anyhow::Result<()> {
        let challenges = [challenge(ChallengeType::TlsAlpn01, token)];
        let (_, key) = self.account.tls_alpn_01(&challenges, host.to_owned())?;
        self.handshakes.insert(host.to_owned(), Arc::new(key));
        Ok(())
    }

    /// Adds the text for the CA's HTTP-01 request for this token at port 80.
    pub fn add_http_01(&mut self, token: &str) -> anyhow::Result<()> {
        let challenges = [challenge(ChallengeType::Http01, token)];
        let (_, text) = self.account.http_01(&challenges)?;
        self.tokens.insert(token.to_owned(), text);
        Ok(())
    }

    /// The certificate for a TLS-ALPN-01 handshake; `None` if the host has no pending challenge.
    pub fn handshake(&self, host: Option<&str>) -> Option<Arc<CertifiedKey>> {
        self.handshakes.get(&host?.to_ascii_lowercase()).cloned()
    }

    /// The response body for an HTTP-01 request; `None` if the token is unknown.
    pub fn token(&self, token: &str) -> Option<String> {
        self.tokens.get(token).cloned()
    }
}

fn challenge(typ: ChallengeType, token: &str) -> Challenge {
    Challenge { typ, url: String::new(), token: token.to_owned(), error: None }
}
