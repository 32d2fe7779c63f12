//! One ACME order: open the account, answer the challenges, and get a certificate or a failure.

use std::{sync::Arc, time::Duration};

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeStatus, ChallengeType, Error,
    Identifier, NewOrder, OrderStatus, RetryPolicy,
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{
    account::{Accounts, Opened},
    wire::{ACCOUNT_UNKNOWN, Refusal, explain, failure, is_nonce},
};
use crate::{
    config::Challenge,
    tls::{
        answers::Answers,
        backoff::{Class, Failure},
        certificates::Certificates,
        dns::{Records, Txt},
    },
};

/// Time limit of an order, without the wait for TXT records. The CA's validation takes seconds, and
/// sometimes a minute.
const ORDER_TIMEOUT: Duration = Duration::from_secs(300);
/// How often the CA is polled for the state of the order, unless it sends `Retry-After`.
const ASK: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .backoff(1.5)
    .timeout(Duration::from_secs(120));

/// The parameters of all orders of this server; [`place`](Self::place) places one of them.
pub struct Order {
    /// Opens the account at the CA.
    pub accounts: Accounts,
    /// The hosts that the certificate must cover.
    pub hosts: Vec<String>,
    /// The type of challenge by which the CA validates the hosts.
    pub challenge: Challenge,
    /// Responds to the CA's TLS-ALPN-01 and HTTP-01 challenges.
    pub certificates: Arc<Certificates>,
}

impl Order {
    /// Places an order and waits for its result: a private key and a certificate chain in PEM.
    /// `replaced` is the certificate that the new one replaces, if any. TXT records are removed
    /// when the order ends, whatever its result.
    ///
    /// # Errors
    ///
    /// The order failed, exceeded its time limit (300 s, for DNS-01 plus `ACME_DNS_WAIT`), or was
    /// stopped by `stop`.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: if the future is dropped, TXT records stay at the DNS provider. Cancel
    /// `stop` instead.
    pub async fn place(
        &self,
        replaced: Option<CertificateIdentifier<'_>>,
        stop: &CancellationToken,
    ) -> Result<Vec<u8>, Failure> {
        let (mut records, mut patience) = (None, ORDER_TIMEOUT);
        if let Challenge::Dns01(dns) = &self.challenge {
            let begin = Records::begin(dns, &self.hosts, &self.accounts.client);
            records = Some(stop.run_until_cancelled(begin).await.unwrap_or_else(stopped)?);
            patience += dns.wait;
        }
        let proceed = timeout(patience, self.proceed(replaced, &mut records));
        let ended = match stop.run_until_cancelled(proceed).await {
            Some(Ok(ended)) => ended,
            Some(Err(_)) => {
                let text = format!("the order was not finished within {} s", patience.as_secs());
                Err(Failure::new(Class::Network, text))
            }
            None => stopped(),
        };
        if let Some(records) = records {
            records.clear().await;
        }
        ended
    }

    /// The steps of an order. `records` collects the TXT records that have to be removed when the
    /// order ends, whatever its result.
    async fn proceed(
        &self,
        replaced: Option<CertificateIdentifier<'_>>,
        records: &mut Option<Records>,
    ) -> Result<Vec<u8>, Failure> {
        let (key, mut order) = self.begin(replaced).await?;
        let mut answers = Answers::new(&key).map_err(of_ours)?;
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(failure)?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let challenge = authorization.challenge(self.challenge_type());
            let challenge = challenge.ok_or_else(|| {
                let text = "the CA does not offer this challenge: set another ACME_CHALLENGE";
                Failure::new(Class::Validation, text)
            })?;
            let Identifier::Dns(host) = challenge.identifier().identifier else { continue };
            let (token, answer) = (&challenge.token, challenge.key_authorization());
            if let Some(records) = records {
                records.add(Txt::new(host, token, &answer)).await?;
            } else if self.challenge == Challenge::Http01 {
                answers.add_http_01(token).map_err(of_ours)?;
            } else {
                answers.add_tls_alpn_01(host, token).map_err(of_ours)?;
            }
        }
        let _answering = self.certificates.answer(answers);
        if let Some(records) = records {
            records.wait().await?;
        }
        // Start the validation once all responses are ready: the CA may check them all at once.
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(failure)?;
            if authorization.status == AuthorizationStatus::Pending
                && let Some(mut challenge) = authorization.challenge(self.challenge_type())
            {
                match challenge.set_ready().await {
                    // The CA has checked this host already; the order's state has the result.
                    Err(Error::Api(problem)) if !is_nonce(&problem) => {}
                    ready => ready.map_err(failure)?,
                }
            }
        }
        match order.poll_ready(&ASK).await {
            Ok(OrderStatus::Ready) => {}
            Err(Error::Api(problem)) if is_nonce(&problem) => return Err(failure(problem.into())),
            Ok(_) | Err(Error::Api(_)) => return Err(unseen(&mut order).await),
            Err(error) => return Err(failure(error)),
        }
        let key = order.finalize().await.map_err(failure)?;
        let chain = order.poll_certificate(&ASK).await.map_err(failure)?;
        Ok([key, chain].join("\n").into_bytes())
    }

    /// Places the order and returns it with the key of the account.
    async fn begin(
        &self,
        replaced: Option<CertificateIdentifier<'_>>,
    ) -> Result<(Vec<u8>, instant_acme::Order), Failure> {
        let Opened { account, key } = self.accounts.open().await?;
        match self.new_order(&account, replaced).await {
            // The CA does not know the account any more, as test CAs may do: register again.
            Err(error) if Refusal::is(&error, ACCOUNT_UNKNOWN) => {
                let Opened { account, key } = self.accounts.register().await?;
                Ok((key, self.new_order(&account, None).await.map_err(failure)?))
            }
            order => Ok((key, order.map_err(failure)?)),
        }
    }

    async fn new_order(
        &self,
        account: &Account,
        replaced: Option<CertificateIdentifier<'_>>,
    ) -> Result<instant_acme::Order, Error> {
        let identifiers: Vec<_> = self.hosts.iter().cloned().map(Identifier::Dns).collect();
        let new = NewOrder::new(&identifiers);
        let Some(replaced) = replaced else { return account.new_order(&new).await };
        match account.new_order(&NewOrder::new(&identifiers).replaces(replaced)).await {
            // The CA does not support replacements, or the certificate was replaced already or
            // belongs to another account: order without `replaces`.
            Err(Error::Unsupported(_)) => account.new_order(&new).await,
            Err(error) if Refusal::is_about_order(&error) => account.new_order(&new).await,
            order => order,
        }
    }

    fn challenge_type(&self) -> ChallengeType {
        match self.challenge {
            Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
            Challenge::Http01 => ChallengeType::Http01,
            Challenge::Dns01(_) => ChallengeType::Dns01,
        }
    }
}

/// Collects the reasons why the CA could not validate the hosts.
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
            problems.push(format!("the CA could not validate {host}: {said}"));
        }
    }
    if problems.is_empty() {
        let said = order.state().error.as_ref().map(explain);
        problems.push(said.unwrap_or_else(|| "the CA rejected the order".to_owned()));
    }
    Failure::new(Class::Validation, problems.join("; "))
}

fn stopped<T>() -> Result<T, Failure> {
    let text = "the server was stopped while a certificate was being ordered";
    Err(Failure::new(Class::Stopped, text))
}

fn of_ours(error: anyhow::Error) -> Failure {
    Failure::new(Class::Store, format!("{error:#}"))
}
