//! A fake DNS provider: Cloudflare's API and lego's `httpreq`, in front of Pebble's name server.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1 as server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::request;

/// The credentials that the provider accepts.
pub const TOKEN: &str = "a-token-that-may";
pub const EMAIL: &str = "me@example.com";
pub const KEY: &str = "0123456789abcdef";
/// The provider's only zone.
const ZONE: &str = "example.com";

/// A provider on a free port, stopped on drop.
pub struct Provider {
    pub addr: SocketAddr,
    state: Arc<Mutex<State>>,
    _stop: DropGuard,
}

#[derive(Default)]
struct State {
    calls: u64,
    made: u64,
    /// Number, name and content of each record.
    records: Vec<(u64, String, String)>,
    /// Whether records are accepted without being published.
    mute: bool,
}

impl Provider {
    /// Starts a provider that publishes at this name server.
    pub async fn start(names: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("bound");
        let (state, stop) = (Arc::<Mutex<State>>::default(), CancellationToken::new());
        let serve = serve(listener, names, state.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(serve));
        Self { addr, state, _stop: stop.drop_guard() }
    }

    pub fn cloudflare(&self) -> String {
        format!("http://{}/client/v4", self.addr)
    }

    pub fn httpreq(&self) -> String {
        format!("http://{}/httpreq/", self.addr)
    }

    /// Stops publishing; records are still accepted.
    pub fn mute(&self) {
        self.state.lock().expect("unpoisoned").mute = true;
    }

    pub fn calls(&self) -> u64 {
        self.state.lock().expect("unpoisoned").calls
    }

    /// How many records were created, and how many exist now.
    pub fn records(&self) -> (u64, usize) {
        let state = self.state.lock().expect("unpoisoned");
        (state.made, state.records.len())
    }
}

async fn serve(listener: TcpListener, names: SocketAddr, state: Arc<Mutex<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let state = state.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.expect("a body").to_bytes();
                let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                let (status, answer, changed) =
                    state.lock().expect("unpoisoned").answer(&head, &body);
                if let Some(name) = changed {
                    publish(names, &state, &name).await;
                }
                let answer = Full::new(Bytes::from(answer.to_string()));
                let answer = Response::builder().status(status).body(answer);
                Ok::<_, Infallible>(answer.expect("a response"))
            }
        });
        tokio::spawn(server::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// Replaces the records of a name: the name server can only add a value or clear the whole name.
async fn publish(names: SocketAddr, state: &Mutex<State>, name: &str) {
    let values: Vec<_> = {
        let state = state.lock().expect("unpoisoned");
        let named = state.records.iter().filter(|(_, known, _)| known == name && !state.mute);
        named.map(|(_, _, content)| content.trim_matches('"').to_owned()).collect()
    };
    let host = format!("{name}.");
    request(names, "POST", "/clear-txt", &json!({ "host": host }).to_string()).await;
    for value in values {
        let record = json!({ "host": host, "value": value });
        request(names, "POST", "/set-txt", &record.to_string()).await;
    }
}

type Answer = (u16, Value, Option<String>);

impl State {
    fn answer(&mut self, head: &http::request::Parts, body: &Value) -> Answer {
        self.calls += 1;
        let path = head.uri.path();
        match (path.strip_prefix("/client/v4/"), path.strip_prefix("/httpreq/")) {
            (Some(path), _) => self.cloudflare(head, path, body),
            (_, Some(action)) => self.httpreq(head, action, body),
            _ => (404, Value::Null, None),
        }
    }

    fn cloudflare(&mut self, head: &http::request::Parts, path: &str, body: &Value) -> Answer {
        let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        let refused = |status, errors: Value| {
            (status, json!({ "success": false, "errors": errors, "result": null }), None)
        };
        match (header("authorization"), header("x-auth-email"), header("x-auth-key")) {
            (Some(bearer), None, None) if bearer == format!("Bearer {TOKEN}") => {}
            (None, Some(EMAIL), Some(KEY)) => {}
            (None, Some(_), Some(TOKEN)) => {
                let chain =
                    json!([{ "code": 6103, "message": "Invalid format for X-Auth-Key header" }]);
                let problem = json!({ "code": 6003, "message": "Invalid request headers", "error_chain": chain });
                return refused(400, json!([problem]));
            }
            _ => return refused(403, json!([{ "code": 9109, "message": "Invalid access token" }])),
        }
        let name = |query: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix("name=")).map(str::to_owned)
        };
        let name = head.uri.query().and_then(name).unwrap_or_default();
        let parts: Vec<_> = path.split('/').collect();
        let (result, changed) = match (head.method.as_str(), parts.as_slice()) {
            ("GET", ["zones"]) if name == ZONE => (json!([{ "id": "z1", "name": ZONE }]), None),
            ("GET", ["zones"]) => (json!([]), None),
            ("POST", ["zones", "z1", "dns_records"]) => {
                assert_eq!(body["type"], "TXT");
                let text = |field: &str| body[field].as_str().expect("a text").to_owned();
                (json!({}), Some(self.add(text("name"), text("content"))))
            }
            ("GET", ["zones", "z1", "dns_records"]) => {
                let named = self.records.iter().filter(|(_, known, _)| *known == name);
                let found = named
                    .map(|(id, _, content)| json!({ "id": id.to_string(), "content": content }));
                (found.collect(), None)
            }
            ("DELETE", ["zones", "z1", "dns_records", id]) => {
                // The body as Cloudflare's documentation shows it.
                let changed = self.remove(|number, _, _| number.to_string() == *id);
                return (200, json!({ "result": { "id": id } }), changed);
            }
            _ => return refused(404, json!([{ "code": 7003, "message": "no such place" }])),
        };
        (200, json!({ "success": true, "errors": [], "result": result }), changed)
    }

    fn httpreq(&mut self, head: &http::request::Parts, action: &str, body: &Value) -> Answer {
        // `me:secret` in Base64.
        if head.headers.get("authorization").is_none_or(|value| value != "Basic bWU6c2VjcmV0") {
            return (401, json!("who are you?"), None);
        }
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        let (name, value) = (text("fqdn").trim_end_matches('.').to_owned(), text("value"));
        match action {
            "present" => (200, Value::Null, Some(self.add(name, value))),
            "cleanup" => (
                200,
                Value::Null,
                self.remove(|_, known, content| *known == name && *content == value),
            ),
            _ => (404, Value::Null, None),
        }
    }

    fn add(&mut self, name: String, content: String) -> String {
        self.made += 1;
        self.records.push((self.made, name.clone(), content));
        name
    }

    fn remove(&mut self, is: impl Fn(u64, &String, &String) -> bool) -> Option<String> {
        let at = self.records.iter().position(|(id, name, content)| is(*id, name, content))?;
        Some(self.records.remove(at).1)
    }
}
