//! TXT records through an HTTP server, with the same requests as lego's `httpreq` provider.

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use http::{
    HeaderValue, Request, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use serde_json::json;

use super::{Provider, Txt, excerpt, network, read};
use crate::{
    config::Credential,
    tls::{
        backoff::{Class, Failure},
        client::Client,
    },
};

/// A server that creates and removes TXT records.
pub struct HttpReq {
    endpoint: String,
    raw: bool,
    authorization: Option<HeaderValue>,
    client: Client,
}

impl HttpReq {
    /// Reads the user name and the password, if there are any. They are sent as HTTP Basic
    /// authentication.
    pub async fn new(
        endpoint: String,
        raw: bool,
        user: Option<(Credential, Credential)>,
        client: Client,
    ) -> Result<Self, Failure> {
        let authorization = match user {
            None => None,
            Some((name, password)) => {
                let (name, password) = (read(name).await?, read(password).await?);
                let pair = format!("{}:{}", name.expose(), password.expose());
                let value = format!("Basic {}", BASE64_STANDARD.encode(pair));
                let mut value = HeaderValue::try_from(value).map_err(|_| {
                    Failure::new(Class::Credentials, "HTTPREQ_PASSWORD: it cannot be sent")
                })?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self { endpoint, raw, authorization, client })
    }

    async fn post(&self, action: &str, txt: &Txt) -> Result<(), Failure> {
        let body = match self.raw {
            true => json!({
                "domain": txt.host, "token": txt.token, "keyAuth": txt.key_authorization,
            }),
            false => json!({ "fqdn": format!("{}.", txt.name), "value": txt.value }),
        };
        let mut request = Request::post(format!("{}/{action}", self.endpoint))
            .header(CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(body.to_string().into_bytes().into());
        let request = request.map_err(|error| network(&error.into()))?;
        let answer = self.client.send(request).await.map_err(|error| network(&error))?;
        let class = match answer.status() {
            status if status.is_success() => return Ok(()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Class::Credentials,
            status if status.is_server_error() => Class::Network,
            _ => Class::Validation,
        };
        let said = excerpt(&String::from_utf8_lossy(answer.body()));
        let status = answer.status().as_u16();
        Err(Failure::new(
            class,
            format!("HTTPREQ_ENDPOINT: the answer to /{action} was {status}: {said}"),
        ))
    }
}

#[async_trait]
impl Provider for HttpReq {
    async fn zone(&self, _: &str) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    async fn present(&self, txt: &Txt) -> Result<(), Failure> {
        self.post("present", txt).await
    }

    async fn clean_up(&self, txt: &Txt) -> Result<(), Failure> {
        self.post("cleanup", txt).await
    }
}
