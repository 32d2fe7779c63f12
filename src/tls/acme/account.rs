//! The account with the CA: found in the store, or registered.

use instant_acme::{Account, AccountCredentials, NewAccount};

use super::wire::{Wire, failure};
use crate::{
    file_calls::StoreCalls,
    tls::{
        backoff::{Class, Failure},
        client::Client,
    },
};

/// Where accounts come from.
pub struct Accounts {
    /// The CA's directory.
    pub directory: String,
    /// The way to it.
    pub client: Client,
    /// Whom the CA may write to, as a URL.
    pub contact: Option<String>,
    /// Where the account's key is.
    pub store: StoreCalls,
    /// And as which kind of record.
    pub kind: String,
}

/// An account, and its key in PKCS #8.
pub struct Opened {
    /// For orders.
    pub account: Account,
    /// For the answers to challenges.
    pub key: Vec<u8>,
}

impl Accounts {
    /// The stored one, or a new one.
    pub async fn open(&self) -> Result<Opened, Failure> {
        match self.stored().await? {
            Some(opened) => Ok(opened),
            None => self.register().await,
        }
    }

    /// The stored one. The CA is asked for nothing but its directory.
    pub async fn stored(&self) -> Result<Option<Opened>, Failure> {
        let parse = |content: &[u8]| Ok(serde_json::from_slice::<AccountCredentials>(content)?);
        let kind = self.kind.clone();
        let stored = self.store.call(move |store| store.read(&kind, parse)).await;
        let stored = stored.map_err(of_store)?;
        let Some(credentials) = stored.into_iter().next() else { return Ok(None) };
        let key = credentials.private_key().secret_pkcs8_der().to_vec();
        let account = Account::builder_with_http(Box::new(Wire(self.client.clone())))
            .from_credentials(credentials)
            .await
            .map_err(failure)?;
        Ok(Some(Opened { account, key }))
    }

    /// A new one, with a key of its own.
    pub async fn register(&self) -> Result<Opened, Failure> {
        let contact: Vec<_> = self.contact.as_deref().into_iter().collect();
        let new = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let (account, credentials) =
            Account::builder_with_http(Box::new(Wire(self.client.clone())))
                .create(&new, self.directory.clone(), None)
                .await
                .map_err(failure)?;
        let kind = self.kind.clone();
        let content = serde_json::to_vec(&credentials).map_err(|error| of_store(error.into()))?;
        let stored = self.store.call(move |store| store.write(&kind, &content)).await;
        stored.map_err(of_store)?;
        let key = credentials.private_key().secret_pkcs8_der().to_vec();
        Ok(Opened { account, key })
    }
}

fn of_store(error: anyhow::Error) -> Failure {
    Failure::new(Class::Store, format!("{error:#}"))
}
