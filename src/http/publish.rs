//! `POST /publish/{channel}`: publishing over HTTP, for devices and functions without a Redis
//! client.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use tokio::{sync::Semaphore, time::timeout};

use super::bearer;
use crate::{
    auth::{Auth, PUBLISHING},
    channel,
    clock::now,
    config::Config,
    conn::connection::Connection,
    metrics::Metrics,
    redis::{Link, RETRY_AFTER},
};

/// Time limit for a whole body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of all payloads under way to Redis, the same bound as that of the queue from Redis. If
/// Redis stalls, further requests are answered 503.
const MAX_UNDER_WAY: usize = 25 << 20;
/// Bytes per permit: a semaphore acquires at most `u32::MAX` permits at once.
const UNIT: usize = 1 << 10;

/// State of the route, shared by all requests.
///
/// A body that arrives counts in the inbound budget. Once it is whole, the request takes permits of
/// `under_way` for its bytes and keeps them until Redis has answered. If there are too few permits,
/// the request is answered 503 at once instead of waiting.
pub struct Publishing {
    auth: Arc<Auth>,
    link: Link,
    max_payload: usize,
    under_way: Semaphore,
    metrics: Arc<Metrics>,
}

/// The JSON of the answer: the number of subscribers, as Redis returns it.
#[derive(Serialize)]
struct Published {
    subscribers: u64,
}

impl Publishing {
    /// Publishes through `link`; payloads have at most `MAX_PAYLOAD` bytes.
    pub fn new(config: &Config, auth: Arc<Auth>, link: Link, metrics: Arc<Metrics>) -> Self {
        let under_way = Semaphore::new(MAX_UNDER_WAY / UNIT);
        Self { auth, link, max_payload: config.max_payload, under_way, metrics }
    }

    async fn publish(
        &self,
        channel: &str,
        headers: &HeaderMap,
        connection: Option<&Arc<Connection>>,
        body: Body,
    ) -> Result<Response, Response> {
        let grant = self.auth.publisher(bearer::header(headers), now());
        let grant = grant.map_err(|problem| {
            problem.log(PUBLISHING);
            bearer::unauthorised(&problem)
        })?;
        channel::check(channel)
            .map_err(|problem| (StatusCode::BAD_REQUEST, format!("{problem}\n")).into_response())?;
        if !grant.may_publish(channel) {
            return Err(bearer::forbidden("publish", channel));
        }
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let length = length.and_then(|length| length.parse::<usize>().ok());
        if length.is_some_and(|length| length > self.max_payload) {
            return Err(self.too_large());
        }
        if let Some(connection) = connection {
            connection.set_authenticated(true);
        }
        let payload = self.collect(body).await?;
        let units = payload.len().div_ceil(UNIT).max(1) as u32;
        let Ok(_under_way) = self.under_way.try_acquire_many(units) else {
            return Err(try_again("Redis is slower than the publishers: too much is under way"));
        };
        match self.link.publish(channel, &payload).await {
            Ok(subscribers) => {
                self.metrics.published.inc();
                Ok((StatusCode::ACCEPTED, Json(Published { subscribers })).into_response())
            }
            Err(_) => Err(try_again("Redis has not accepted it; see the server's log")),
        }
    }

    async fn collect(&self, body: Body) -> Result<Bytes, Response> {
        match timeout(BODY_TIMEOUT, Limited::new(body, self.max_payload).collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(self.too_large()),
            Ok(Err(_)) => Err(StatusCode::BAD_REQUEST.into_response()),
            Err(_) => Err(StatusCode::REQUEST_TIMEOUT.into_response()),
        }
    }

    fn too_large(&self) -> Response {
        let text = format!("a payload may have {} bytes at most (MAX_PAYLOAD)\n", self.max_payload);
        (StatusCode::PAYLOAD_TOO_LARGE, text).into_response()
    }
}

fn try_again(text: &str) -> Response {
    let after = [(header::RETRY_AFTER, RETRY_AFTER.as_secs())];
    (StatusCode::SERVICE_UNAVAILABLE, after, format!("{text}\n")).into_response()
}

/// The route; none if neither a JWT key nor `PUBLISH_TOKEN` is set, as no request could be allowed.
pub fn routes(publishing: Publishing) -> Router {
    if !publishing.auth.has_publishers() {
        return Router::new();
    }
    let publish = async |State(publishing): State<Arc<Publishing>>,
                         channel: Option<Path<String>>,
                         connection: Option<Extension<Arc<Connection>>>,
                         headers: HeaderMap,
                         body: Body| {
        let channel = channel.map(|Path(channel)| channel).unwrap_or_default();
        let connection = connection.as_deref();
        let published = publishing.publish(&channel, &headers, connection, body).await;
        published.unwrap_or_else(|refused| refused)
    };
    Router::new()
        .route("/publish/{*channel}", post(publish))
        .route("/publish/", post(publish))
        .with_state(Arc::new(publishing))
}
