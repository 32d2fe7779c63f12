//! What a CA is shown when it asks here whether hosts are ours; rustls-acme makes it.

use std::{collections::HashMap, sync::Arc};

use anyhow::Context;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use rustls::sign::CertifiedKey;
use rustls_acme::acme::{Account, Challenge, ChallengeType, Directory};

/// The answers of one order.
pub struct Answers {
    account: Account,
    handshakes: HashMap<String, Arc<CertifiedKey>>,
    tokens: HashMap<String, String>,
}

impl Answers {
    /// None yet. They are made with the account's key, PKCS #8.
    pub fn new(key: &[u8]) -> anyhow::Result<Self> {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let key_pair = EcdsaKeyPair::from_pkcs8(algorithm, key, &SystemRandom::new())
            .context("the account's key cannot be used")?;
        // Whom it orders from does not matter here.
        let [new_nonce, new_account, new_order, kid] = Default::default();
        let directory = Directory { new_nonce, new_account, new_order };
        let account = Account { key_pair, directory, kid };
        Ok(Self { account, handshakes: HashMap::new(), tokens: HashMap::new() })
    }

    /// For a handshake at port 443 with this host's name.
    pub fn add_tls_alpn_01(&mut self, host: &str, token: &str) -> anyhow::Result<()> {
        let challenges = [challenge(ChallengeType::TlsAlpn01, token)];
        let (_, key) = self.account.tls_alpn_01(&challenges, host.to_owned())?;
        self.handshakes.insert(host.to_owned(), Arc::new(key));
        Ok(())
    }

    /// For a request at port 80 for this token.
    pub fn add_http_01(&mut self, token: &str) -> anyhow::Result<()> {
        let challenges = [challenge(ChallengeType::Http01, token)];
        let (_, text) = self.account.http_01(&challenges)?;
        self.tokens.insert(token.to_owned(), text);
        Ok(())
    }

    /// What a handshake is answered.
    pub fn handshake(&self, host: Option<&str>) -> Option<Arc<CertifiedKey>> {
        self.handshakes.get(&host?.to_ascii_lowercase()).cloned()
    }

    /// What a request is answered.
    pub fn token(&self, token: &str) -> Option<String> {
        self.tokens.get(token).cloned()
    }
}

fn challenge(typ: ChallengeType, token: &str) -> Challenge {
    Challenge { typ, url: String::new(), token: token.to_owned(), error: None }
}
