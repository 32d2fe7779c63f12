//! The HTTP client that instant-acme uses, and the meaning of a CA's error responses.
//!
//! An error response becomes an error here, before instant-acme sees it, because instant-acme drops
//! the status and the `Retry-After` header. Only `badNonce` is passed on, since instant-acme
//! handles it by retrying with a new nonce.

use std::{
    error::Error as StdError,
    fmt,
    pin::Pin,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient, Problem};
use serde::Deserialize;

use crate::tls::{
    backoff::{Class, Failure},
    client::{Client, retry_after},
};

/// The prefix of all error types of RFC 8555.
const KINDS: &str = "urn:ietf:params:acme:error:";

/// The error type for an account that the CA does not know.
pub const ACCOUNT_UNKNOWN: &str = "accountDoesNotExist";

/// Sends instant-acme's requests to the CA through [`Client`].
pub struct Wire(pub Client);

impl HttpClient for Wire {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.0.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let Ok(body) = body.collect().await;
            let request = Request::from_parts(head, Full::new(body.to_bytes()));
            let answer = client.send(request).await;
            let answer = answer.map_err(|error| Error::Other(format!("{error:#}").into()))?;
            match Refusal::of(&answer, SystemTime::now()) {
                Some(refusal) if refusal.kind != "badNonce" => Err(Error::Other(refusal.into())),
                _ => Ok(answer.map(Full::new).into()),
            }
        })
    }
}

/// An error response of the CA: an ACME error document, or any other response without success.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    /// The error type without the prefix [`KINDS`]; empty if the response names none.
    kind: String,
    detail: String,
    retry_after: Option<Duration>,
}

impl Refusal {
    fn of(answer: &Response<Bytes>, now: SystemTime) -> Option<Self> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Document {
            r#type: String,
            detail: String,
        }
        let status = answer.status();
        if status.is_success() {
            return None;
        }
        let Document { r#type, detail } = serde_json::from_slice(answer.body()).unwrap_or_default();
        let kind = r#type.trim_start_matches(KINDS).to_owned();
        Some(Self { status, kind, detail, retry_after: retry_after(answer.headers(), now) })
    }

    /// Whether `error` is a refusal with the error type `kind`.
    pub fn is(error: &Error, kind: &str) -> bool {
        Self::find(error).is_some_and(|refusal| refusal.kind == kind)
    }

    /// Whether `error` refuses the content of the order, and is not about the account, a rate limit
    /// or a failure of the CA.
    pub fn is_about_order(error: &Error) -> bool {
        Self::find(error).is_some_and(|refusal| {
            refusal.class() == Class::Validation && refusal.kind != ACCOUNT_UNKNOWN
        })
    }

    fn find(error: &Error) -> Option<&Self> {
        let Error::Other(error) = error else { return None };
        error.downcast_ref()
    }

    fn class(&self) -> Class {
        class(self.status, &self.kind)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the CA answered {}", self.status.as_u16())?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

impl StdError for Refusal {}

fn class(status: StatusCode, kind: &str) -> Class {
    match (status.as_u16(), kind) {
        (429, _) | (_, "rateLimited") => Class::RateLimited,
        (500.., _) | (_, "badNonce" | "serverInternal") => Class::Network,
        _ => Class::Validation,
    }
}

/// Converts an error to a [`Failure`], whose class determines the pause before the next attempt.
pub fn failure(error: Error) -> Failure {
    if let Some(refusal) = Refusal::find(&error) {
        let (class, retry_after) = (refusal.class(), refusal.retry_after);
        return Failure { class, retry_after, text: refusal.to_string() };
    }
    match error {
        Error::Api(problem) => {
            Failure::new(class(StatusCode::OK, kind(&problem)), explain(&problem))
        }
        error => Failure::new(Class::Network, error.to_string()),
    }
}

/// Whether the CA refused a nonce. instant-acme reports this only after several retries.
pub fn is_nonce(problem: &Problem) -> bool {
    kind(problem) == "badNonce"
}

fn kind(problem: &Problem) -> &str {
    problem.r#type.as_deref().unwrap_or_default().trim_start_matches(KINDS)
}

/// The CA's explanation of a failed challenge or order.
pub fn explain(problem: &Problem) -> String {
    problem.detail.clone().unwrap_or_else(|| problem.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, body: &str, wait: Option<&str>) -> Failure {
        let mut answer = Response::builder().status(status);
        if let Some(wait) = wait {
            answer = answer.header("retry-after", wait);
        }
        let answer = answer.body(Bytes::copy_from_slice(body.as_bytes())).expect("an answer");
        let refusal = Refusal::of(&answer, SystemTime::UNIX_EPOCH).expect("no success");
        failure(Error::Other(refusal.into()))
    }

    #[test]
    fn status_and_error_type_determine_the_class() {
        for (status, kind, class) in [
            (429, "rateLimited", Class::RateLimited),
            (400, "badNonce", Class::Network),
            (400, "rejectedIdentifier", Class::Validation),
            (403, "unauthorized", Class::Validation),
            (503, "serverInternal", Class::Network),
        ] {
            let body = format!(r#"{{"type":"urn:ietf:params:acme:error:{kind}","detail":"why"}}"#);
            let text = format!("the CA answered {status}: why");
            assert_eq!(refused(status, &body, None), Failure::new(class, text), "{kind}");
        }
        assert_eq!(refused(502, "<html>", None).text, "the CA answered 502");
    }

    #[test]
    fn retry_after_is_kept() {
        assert_eq!(refused(429, "", Some("90")).retry_after, Some(Duration::from_secs(90)));
        let date = Some("Fri, 02 Jan 1970 00:00:00 GMT");
        assert_eq!(refused(503, "", date).retry_after, Some(Duration::from_secs(86_400)));
    }
}
