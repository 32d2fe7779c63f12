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
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient, Problem, Subproblem};

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
        let status = answer.status();
        if status.is_success() {
            return None;
        }
        let problem = serde_json::from_slice::<Problem>(answer.body()).ok();
        let kind = problem.as_ref().map(kind).unwrap_or_default().to_owned();
        let detail = problem.as_ref().and_then(details).unwrap_or_default();
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
    details(problem).unwrap_or_else(|| problem.to_string())
}

/// The CA's explanation, with that of each host that it names; `None` if it gives none.
fn details(problem: &Problem) -> Option<String> {
    let host = |part: &Subproblem| {
        let name = part.identifier.as_ref().map(|name| name.authorized(false).to_string());
        let detail = part.detail.as_deref().or(part.r#type.as_deref());
        Some([name?, detail.unwrap_or("refused").to_owned()].join(": "))
    };
    let hosts = problem.subproblems.iter().filter_map(host);
    let parts: Vec<_> = problem.detail.clone().into_iter().chain(hosts).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
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
    fn each_host_that_is_refused_is_named_with_its_reason() {
        let body = r#"{"type":"urn:ietf:params:acme:error:rejectedIdentifier","detail":"2 names",
            "subproblems":[
              {"type":"urn:ietf:params:acme:error:rejectedIdentifier","detail":"policy forbids it",
               "identifier":{"type":"dns","value":"a.example"}},
              {"type":"urn:ietf:params:acme:error:caa","identifier":{"type":"dns","value":"b.example"}},
              {"type":"urn:ietf:params:acme:error:caa","detail":"of no host"}]}"#;
        let text = "the CA answered 403: 2 names; a.example: policy forbids it; \
                    b.example: urn:ietf:params:acme:error:caa";
        assert_eq!(refused(403, body, None).text, text);
    }

    #[test]
    fn retry_after_is_kept() {
        assert_eq!(refused(429, "", Some("90")).retry_after, Some(Duration::from_secs(90)));
        let date = Some("Fri, 02 Jan 1970 00:00:00 GMT");
        assert_eq!(refused(503, "", date).retry_after, Some(Duration::from_secs(86_400)));
    }
}
