//! The HTTPS client for requests to CAs and DNS providers, with a time limit and a size limit.

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

/// Time limit of a request, from connecting to the end of the response body.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Size limit of a response body in bytes. A certificate chain has 4,000 to 8,000.
const MAX_ANSWER: usize = 1 << 20;
/// The `User-Agent` of all requests. CAs ask for it so that they can contact the authors of a
/// client before they block it.
const NAME: HeaderValue = HeaderValue::from_static(concat!("roomcast/", env!("CARGO_PKG_VERSION")));

/// An HTTPS client. Clones share one connection pool.
#[derive(Clone)]
pub struct Client {
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Client {
    /// Uses the root certificates of `tls`. Requests to `http://` URLs are sent in plain text, for
    /// DNS providers on the same machine.
    pub fn new(tls: ClientConfig) -> Self {
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        Self { pool: Pool::builder(TokioExecutor::new()).build(connector.build()) }
    }

    /// Sends a request and returns the complete response, whatever its status.
    ///
    /// # Errors
    ///
    /// There is no complete response within 30 s, or its body is larger than 1 MiB. The error names
    /// the host.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the request may have reached the server.
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

/// The pause that a `Retry-After` header asks for, which is a number of seconds or a date. A date
/// that has passed gives zero; `None` if the header is missing or cannot be parsed.
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
