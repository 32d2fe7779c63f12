//! The account at the CA: read from the store, or registered and then stored.

use instant_acme::{Account, AccountCredentials, NewAccount};

use super::wire::{Wire, failure};
use crate::{
    file_calls::StoreCalls,
    tls::{
        backoff::{Class, Failure},
        client::Client,
    },
};

/// Opens the account at one CA, with one contact address.
pub struct Accounts {
    /// The URL of the CA's directory.
    pub directory: String,
    /// The HTTPS client for requests to the CA.
    pub client: Client,
    /// The contact address for the CA, as a `mailto:` URL.
    pub contact: Option<String>,
    /// The store that holds the account's key.
    pub store: StoreCalls,
    /// The kind of the account's record in the store.
    pub kind: String,
}

/// An account that is ready for orders.
pub struct Opened {
    /// The account, which signs requests to the CA.
    pub account: Account,
    /// Its private key in PKCS #8, for the responses to challenges.
    pub key: Vec<u8>,
}

impl Accounts {
    /// Returns the stored account, or registers a new one if none is stored.
    pub async fn open(&self) -> Result<Opened, Failure> {
        match self.stored().await? {
            Some(opened) => Ok(opened),
            None => self.register().await,
        }
    }

    /// Returns the stored account, if any. The only request to the CA is for its directory.
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

    /// Registers a new account with a new key, and stores it. Agrees to the CA's terms of service.
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
