//! One order: an account, the proof that the hosts are ours, a certificate, or what went wrong.

use std::{sync::Arc, time::Duration};

use instant_acme::{
    AuthorizationStatus, ChallengeStatus, ChallengeType, Error, Identifier, NewOrder, OrderStatus,
    RetryPolicy,
};
use tokio::time::timeout;

use super::{
    account::{Accounts, Opened},
    wire::{Refusal, explain, failure},
};
use crate::{
    config::Challenge,
    tls::{
        answers::Answers,
        backoff::{Class, Failure},
        certificates::Certificates,
    },
};

/// For a whole order. The CA's checks take seconds; it may think about them for a minute.
const ORDER_TIMEOUT: Duration = Duration::from_secs(300);
/// How often the CA is asked how far it is, unless it says so itself.
const ASK: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .backoff(1.5)
    .timeout(Duration::from_secs(120));

/// Everything that an order needs.
pub struct Order {
    /// With the CA.
    pub accounts: Accounts,
    /// For which hosts.
    pub hosts: Vec<String>,
    /// How the CA sees that they are ours.
    pub challenge: Challenge,
    /// Who answers the challenge.
    pub certificates: Arc<Certificates>,
}

impl Order {
    /// Places it and waits for its end: a key and a chain, PEM.
    pub async fn place(&self) -> Result<Vec<u8>, Failure> {
        timeout(ORDER_TIMEOUT, self.proceed()).await.unwrap_or_else(|_| {
            let text = format!("no end of the order within {} s", ORDER_TIMEOUT.as_secs());
            Err(Failure::new(Class::Network, text))
        })
    }

    async fn proceed(&self) -> Result<Vec<u8>, Failure> {
        let (key, mut order) = self.begin().await?;
        let mut answers = Answers::new(&key).map_err(of_ours)?;
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(failure)?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let challenge = authorization.challenge(self.challenge_type());
            let challenge = challenge.ok_or_else(|| {
                let text = "the CA does not offer this challenge: set ACME_CHALLENGE";
                Failure::new(Class::Validation, text)
            })?;
            let Identifier::Dns(host) = challenge.identifier().identifier else { continue };
            match self.challenge {
                Challenge::TlsAlpn01 => answers.add_tls_alpn_01(host, &challenge.token),
                Challenge::Http01 => answers.add_http_01(&challenge.token),
            }
            .map_err(of_ours)?;
        }
        let _answering = self.certificates.answer(answers);
        // Only now: the CA may ask for all of them at once.
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(failure)?;
            if authorization.status == AuthorizationStatus::Pending
                && let Some(mut challenge) = authorization.challenge(self.challenge_type())
            {
                challenge.set_ready().await.map_err(failure)?;
            }
        }
        match order.poll_ready(&ASK).await {
            Ok(OrderStatus::Ready) => {}
            Ok(_) | Err(Error::Api(_)) => return Err(unseen(&mut order).await),
            Err(error) => return Err(failure(error)),
        }
        let key = order.finalize().await.map_err(failure)?;
        let chain = order.poll_certificate(&ASK).await.map_err(failure)?;
        Ok([key, chain].join("\n").into_bytes())
    }

    /// The order itself, and the key of the account that placed it.
    async fn begin(&self) -> Result<(Vec<u8>, instant_acme::Order), Failure> {
        let identifiers: Vec<_> = self.hosts.iter().cloned().map(Identifier::Dns).collect();
        let new = NewOrder::new(&identifiers);
        let Opened { account, key } = self.accounts.open().await?;
        match account.new_order(&new).await {
            // A CA that has forgotten us, as one for tests does, gets to know us again.
            Err(error) if Refusal::is(&error, "accountDoesNotExist") => {
                let Opened { account, key } = self.accounts.register().await?;
                Ok((key, account.new_order(&new).await.map_err(failure)?))
            }
            order => Ok((key, order.map_err(failure)?)),
        }
    }

    fn challenge_type(&self) -> ChallengeType {
        match self.challenge {
            Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
            Challenge::Http01 => ChallengeType::Http01,
        }
    }
}

/// Why the CA could not see that a host is ours.
async fn unseen(order: &mut instant_acme::Order) -> Failure {
    let mut problems = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let state = match authorization.refresh().await {
            Ok(state) => state,
            Err(error) => return failure(error),
        };
        let failed =
            state.challenges.iter().filter(|known| known.status == ChallengeStatus::Invalid);
        let said: Vec<_> = failed.filter_map(|failed| failed.error.as_ref()).map(explain).collect();
        if state.status != AuthorizationStatus::Valid && !said.is_empty() {
            let (host, said) = (state.identifier(), said.join("; "));
            problems.push(format!("the CA could not see that {host} is ours: {said}"));
        }
    }
    let text = match problems.is_empty() {
        true => order.state().error.as_ref().map(explain).unwrap_or_default(),
        false => problems.join("; "),
    };
    Failure::new(Class::Validation, text)
}

fn of_ours(error: anyhow::Error) -> Failure {
    Failure::new(Class::Store, format!("{error:#}"))
}
