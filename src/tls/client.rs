//! HTTPS requests of ours, to CAs and DNS providers: roots we chose, our name, a time and a bound.

use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Response,
    header::{RETRY_AFTER, USER_AGENT},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as Pool, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::ClientConfig;
use tokio::time::timeout;

/// For an answer to arrive whole.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer: a chain of certificates has 4 to 8 thousand.
const MAX_ANSWER: usize = 1 << 20;
/// CAs ask for it, so that they can warn whom they are about to lock out.
const NAME: HeaderValue = HeaderValue::from_static(concat!("roomcast/", env!("CARGO_PKG_VERSION")));

/// Sends requests; what is cloned is a reference.
#[derive(Clone)]
pub struct Client {
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Client {
    /// Trusts whom the configuration trusts. Plain HTTP is there for DNS providers on one's own
    /// machine; the URLs decide.
    pub fn new(tls: ClientConfig) -> Self {
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        Self { pool: Pool::builder(TokioExecutor::new()).build(connector.build()) }
    }

    /// Whatever is answered, as long as something is.
    pub async fn send(&self, mut request: Request<Full<Bytes>>) -> anyhow::Result<Response<Bytes>> {
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        request.headers_mut().insert(USER_AGENT, NAME);
        let answer = async {
            let (head, body) = self.pool.request(request).await?.into_parts();
            let body =
                Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| anyhow!(error))?;
            anyhow::Ok(Response::from_parts(head, body.to_bytes()))
        };
        match timeout(TIMEOUT, answer).await {
            Ok(answer) => answer.with_context(|| format!("no answer from {host}")),
            Err(_) => Err(anyhow!("no answer from {host} within {} s", TIMEOUT.as_secs())),
        }
    }
}

/// How long the other side wants to be left alone: a number of seconds, or a date.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = value.parse().ok().map(Duration::from_secs);
    seconds.or_else(|| {
        let at = httpdate::parse_http_date(value).ok()?;
        Some(at.duration_since(now).unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let wait = |value: &'static str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
            retry_after(&headers, SystemTime::UNIX_EPOCH)
        };
        assert_eq!(wait("120"), Some(Duration::from_secs(120)));
        assert_eq!(wait("Fri, 02 Jan 1970 00:00:10 GMT"), Some(Duration::from_secs(86_410)));
        assert_eq!(wait("Wed, 31 Dec 1969 00:00:00 GMT"), None);
        assert_eq!(wait("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new(), SystemTime::UNIX_EPOCH), None);
    }
}
