//! Polls and POSTs of a session without a WebSocket.

use std::{pin::pin, sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use bytes::{Bytes, BytesMut};
use http::{
    HeaderValue,
    header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE},
    request::Parts,
};
use http_body_util::BodyExt;
use tokio::{
    select,
    task::yield_now,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Engine,
    errors::RequestError,
    frame,
    packet::{Format, Protocol},
    payload::{self, Packet},
    session::{Outcome, PACKETS_PER_TURN, Probe, RouteError, Session},
};
use crate::{
    conn::{caller::Caller, connection::Connection},
    metrics::{Close, Transport},
};

/// The most bytes of one answer to a poll, unless a single batch of messages is larger. The rest
/// waits for the next poll.
const MAX_ANSWER: usize = 1 << 20;
/// Time limit for the body of a POST.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a poll waits while a WebSocket is about to take over. The client cannot upgrade before
/// its poll is answered.
const UPGRADE_PAUSE: Duration = Duration::from_millis(100);
/// The content type of binary payloads in version 3.
const BINARY: &str = "application/octet-stream";
const TEXT: &str = "text/plain; charset=UTF-8";

impl Engine {
    /// Answers a poll as soon as there is something to say.
    pub(super) async fn poll(
        &self,
        session: &Arc<Session>,
        connection: &Arc<Connection>,
    ) -> Result<Response, RequestError> {
        let poll = session.begin_poll().inspect_err(|refused| {
            if *refused == RouteError::Overlap {
                session.end(Close::BadPacket);
            }
        })?;
        session.seen();
        connection.poll_begins();
        let has_begun_late = session.probe() == Probe::Answered;
        let pause = Instant::now() + UPGRADE_PAUSE;
        let frames = loop {
            let mut changed = pin!(session.writer().changed().notified());
            changed.as_mut().enable();
            if session.transport() == Transport::WebSocket {
                break vec![frame::text(&[b"6"])];
            }
            let frames = session.writer().take(MAX_ANSWER);
            if !frames.is_empty() {
                break frames;
            }
            if session.ended().is_some() {
                return Err(RequestError::UnknownSession);
            }
            let is_upgrading = session.probe() == Probe::Answered;
            if is_upgrading && (!has_begun_late || pause <= Instant::now()) {
                break vec![frame::text(&[b"6"])];
            }
            select! {
                biased;
                () = &mut changed => {}
                () = connection.finishes() => return Err(RequestError::Stopping),
                () = sleep_until(pause), if is_upgrading => {}
            }
        };
        drop(poll);
        let bytes = frames.iter().map(Bytes::len).sum();
        let response = packets(session.format(), &frames);
        // From now on the answer waits for the connection's peer.
        session.writer().taken(bytes);
        // If it is too much, the connection is ended, and the answer with it.
        connection.queue(bytes).ok();
        if session.writer().is_closed() && session.writer().is_empty() {
            session.finish(Close::Client);
        }
        connection.poll_ends();
        Ok(response)
    }

    /// Takes the packets of a POST.
    pub(super) async fn post(
        &self,
        session: &Arc<Session>,
        parts: &Parts,
        body: Body,
        caller: &Caller,
    ) -> Result<Response, RequestError> {
        let _post = session.begin_post().inspect_err(|refused| {
            if *refused == RouteError::Overlap {
                session.end(Close::BadPacket);
            }
        })?;
        session.seen();
        let length = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let length = length.and_then(|length| length.parse::<usize>().ok());
        if length.is_some_and(|length| length > self.settings.max_body) {
            return Err(RequestError::TooLarge(
                "the request is larger than maxPayload of the handshake",
            ));
        }
        caller.connection().set_authenticated(!session.is_outside());
        let body = timeout(BODY_TIMEOUT, self.collect(body))
            .await
            .map_err(|_| RequestError::TooLate)??;
        let kind = parts.headers.get(CONTENT_TYPE);
        let is_binary = kind.is_some_and(|kind| kind.as_bytes().starts_with(BINARY.as_bytes()));
        let protocol = session.format().protocol;
        let packets = payload::decode(&body, protocol, is_binary, self.settings.max_packet);
        let packets = packets.inspect_err(|problem| {
            if matches!(problem, payload::PayloadError::Malformed(_)) {
                session.end(Close::BadPacket);
            }
        })?;
        match receive(session, packets, caller).await {
            Outcome::Handled => Ok(text("ok", TEXT)),
            Outcome::End(Close::Client, _) => {
                session.end(Close::Client);
                Ok(text("ok", TEXT))
            }
            Outcome::End(reason, text) => {
                session.end(reason);
                Err(RequestError::BadRequest(text))
            }
        }
    }

    async fn collect(&self, mut body: Body) -> Result<Bytes, RequestError> {
        let mut bytes = BytesMut::new();
        while let Some(part) = body.frame().await {
            let part =
                part.map_err(|_| RequestError::BadRequest("the body of the request is broken"))?;
            let Ok(part) = part.into_data() else { continue };
            if bytes.len() + part.len() > self.settings.max_body {
                let text = "the request is larger than maxPayload of the handshake";
                return Err(RequestError::TooLarge(text));
            }
            bytes.extend_from_slice(&part);
        }
        Ok(bytes.freeze())
    }
}

/// Handles the packets of a POST. Others have their turn in between.
async fn receive(session: &Session, packets: Vec<Packet>, caller: &Caller) -> Outcome {
    let mut packets = packets.into_iter().peekable();
    while packets.peek().is_some() {
        let outcome = session.receive(packets.by_ref().take(PACKETS_PER_TURN), caller);
        if outcome != Outcome::Handled {
            return outcome;
        }
        yield_now().await;
    }
    Outcome::Handled
}

impl From<payload::PayloadError> for RequestError {
    fn from(problem: payload::PayloadError) -> Self {
        match problem {
            payload::PayloadError::Malformed(reason) => Self::BadRequest(reason),
            payload::PayloadError::TooLarge(reason) => Self::TooLarge(reason),
        }
    }
}

/// An answer with the packets of WebSocket frames.
pub(super) fn packets(format: Format, frames: &[Bytes]) -> Response {
    let mut encoder = payload::Encoder::new(format);
    for frame in frames.iter().flat_map(frame::split) {
        encoder.add(frame);
    }
    let is_binary = format.protocol == Protocol::V3 && !format.is_base64;
    text(encoder.finish(), if is_binary { BINARY } else { TEXT })
}

fn text(body: impl Into<Body>, kind: &'static str) -> Response {
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
