//! TXT records at Cloudflare, with API tokens or with the account's global API key.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header::AUTHORIZATION};
use parking_lot::Mutex;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{Provider, Txt, network, read};
use crate::{
    config::CloudflareAccess,
    tls::{
        backoff::{Class, Failure},
        client::{Client, retry_after},
    },
};

/// The TTL of the records in seconds: the shortest that Cloudflare honours. The records exist for
/// about a minute only.
const TTL: u64 = 60;
/// Cloudflare's error codes for rejected credentials: malformed headers, an unknown key, an invalid
/// token, or a token without the permission.
const REFUSED: [u64; 6] = [6003, 9103, 9106, 9109, 10000, 10001];
/// The error code, in the `error_chain` of 6003, for a global API key with a wrong format.
const NO_KEY: u64 = 6103;
/// Cloudflare's error codes for a record that exists already: an earlier attempt at the same
/// challenge created it and did not remove it.
const THERE: [u64; 2] = [81057, 81058];

/// A client for Cloudflare's API.
pub struct Cloudflare {
    url: String,
    client: Client,
    /// The credentials for reading zones and for editing records; they may be the same.
    reader: Access,
    editor: Access,
    /// Cache of the zones that were looked up, by host.
    zones: Mutex<HashMap<String, Zone>>,
}

/// Credentials, as request headers.
#[derive(Clone)]
struct Access {
    /// The name of the setting, for error messages.
    setting: String,
    headers: HeaderMap,
}

#[derive(Clone, Deserialize)]
struct Zone {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Found {
    id: String,
    content: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    /// Missing in some responses.
    success: Option<bool>,
    errors: Vec<Problem>,
    result: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: u64,
    message: String,
    error_chain: Vec<Problem>,
}

impl Cloudflare {
    /// Reads the credentials.
    pub async fn new(
        url: String,
        access: CloudflareAccess,
        client: Client,
    ) -> Result<Self, Failure> {
        let (reader, editor) = match access {
            CloudflareAccess::Token(token, zone) => {
                let editor = Access::token(&token.setting, read(token.clone()).await?.expose())?;
                let reader = match zone {
                    Some(zone) => Access::token(&zone.setting, read(zone.clone()).await?.expose())?,
                    None => editor.clone(),
                };
                (reader, editor)
            }
            CloudflareAccess::Key(email, key) => {
                let setting = key.setting.clone();
                let (email, key) = (read(email).await?, read(key).await?);
                let access = Access::new(
                    setting,
                    [("x-auth-email", email.expose()), ("x-auth-key", key.expose())],
                )?;
                (access.clone(), access)
            }
        };
        Ok(Self { url, client, reader, editor, zones: Mutex::default() })
    }

    /// Finds the zone of a host: tries the host itself and then each parent domain.
    async fn find(&self, host: &str) -> Result<Zone, Failure> {
        let known = self.zones.lock().get(host).cloned();
        if let Some(zone) = known {
            return Ok(zone);
        }
        let mut name = host;
        while name.contains('.') {
            let path = format!("/zones?name={name}");
            let found: Vec<Zone> = self.ask(&self.reader, Method::GET, &path, None).await?;
            if let Some(zone) = found.into_iter().find(|zone| zone.name == name) {
                let mut zones = self.zones.lock();
                zones.insert(host.to_owned(), zone.clone());
                return Ok(zone);
            }
            name = name.split_once('.').map_or("", |(_, parent)| parent);
        }
        let text = format!(
            "{}: it can see no Cloudflare zone of {host}; grant it Zone:Read and DNS:Edit there",
            self.reader.setting
        );
        Err(Failure::new(Class::Credentials, text))
    }

    /// Sends a request and returns the `result` of the response. It is not an error that a record
    /// exists already.
    async fn ask<T: DeserializeOwned>(
        &self,
        access: &Access,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<T, Failure> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        if let Some(headers) = request.headers_mut() {
            headers.extend(access.headers.clone());
            headers.insert("content-type", HeaderValue::from_static("application/json"));
        }
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = request.body(body.into_bytes().into());
        let request = request.map_err(|error| network(&error.into()))?;
        let response = self.client.send(request).await.map_err(|error| network(&error))?;
        let answer: Answer = serde_json::from_slice(response.body()).unwrap_or_default();
        let there = answer.errors.iter().any(|problem| THERE.contains(&problem.code));
        if !there && (!response.status().is_success() || answer.success == Some(false)) {
            let after = retry_after(response.headers(), SystemTime::now());
            return Err(access.refused(&response, &answer.errors, after));
        }
        serde_json::from_value(answer.result).map_err(|error| network(&error.into()))
    }
}

#[async_trait]
impl Provider for Cloudflare {
    async fn zone(&self, host: &str) -> Result<Option<String>, Failure> {
        Ok(Some(self.find(host).await?.name))
    }

    async fn present(&self, txt: &Txt) -> Result<(), Failure> {
        let path = format!("/zones/{}/dns_records", self.find(&txt.host).await?.id);
        // The content is quoted, as in a zone file.
        let content = format!("\"{}\"", txt.value);
        let record = json!({ "type": "TXT", "name": txt.name, "content": content, "ttl": TTL });
        self.ask::<Value>(&self.editor, Method::POST, &path, Some(record)).await?;
        Ok(())
    }

    async fn clean_up(&self, txt: &Txt) -> Result<(), Failure> {
        let path = format!("/zones/{}/dns_records", self.find(&txt.host).await?.id);
        let named = format!("{path}?type=TXT&name={}", txt.name);
        let found: Vec<Found> = self.ask(&self.editor, Method::GET, &named, None).await?;
        for record in found.iter().filter(|record| record.content.trim_matches('"') == txt.value) {
            let path = format!("{path}/{}", record.id);
            self.ask::<Value>(&self.editor, Method::DELETE, &path, None).await?;
        }
        Ok(())
    }
}

impl Access {
    fn token(setting: &str, token: &str) -> Result<Self, Failure> {
        Self::new(setting.to_owned(), [(AUTHORIZATION.as_str(), format!("Bearer {token}"))])
    }

    fn new<V: AsRef<str>>(
        setting: String,
        headers: impl IntoIterator<Item = (&'static str, V)>,
    ) -> Result<Self, Failure> {
        let mut access = Self { setting, headers: HeaderMap::new() };
        for (name, value) in headers {
            let mut value = HeaderValue::from_str(value.as_ref()).map_err(|_| {
                let text =
                    format!("{}: it has characters that no HTTP header can hold", access.setting);
                Failure::new(Class::Credentials, text)
            })?;
            value.set_sensitive(true);
            access.headers.insert(HeaderName::from_static(name), value);
        }
        Ok(access)
    }

    /// Converts an error response to a failure; errors about credentials name the setting.
    fn refused<B>(
        &self,
        response: &Response<B>,
        problems: &[Problem],
        retry_after: Option<Duration>,
    ) -> Failure {
        let status = response.status().as_u16();
        let all = || {
            problems.iter().flat_map(|problem| std::iter::once(problem).chain(&problem.error_chain))
        };
        let said: Vec<_> =
            all().map(|problem| format!("{} ({})", problem.message, problem.code)).collect();
        let said = format!("Cloudflare answered {status}: {}", said.join(", "));
        let is = |codes: &[u64]| all().any(|problem| codes.contains(&problem.code));
        if self.headers.contains_key("x-auth-key") && is(&[NO_KEY]) {
            let text = format!(
                "{}: it holds an API token; set CLOUDFLARE_DNS_API_TOKEN instead. {said}",
                self.setting
            );
            return Failure::new(Class::Credentials, text);
        }
        match status {
            429 => Failure { retry_after, ..Failure::new(Class::RateLimited, said) },
            500.. => Failure::new(Class::Network, said),
            401 | 403 => Failure::new(Class::Credentials, format!("{}: {said}", self.setting)),
            _ if is(&REFUSED) => {
                Failure::new(Class::Credentials, format!("{}: {said}", self.setting))
            }
            _ => Failure::new(Class::Validation, said),
        }
    }
}
