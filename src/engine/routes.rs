//! Requests to `/socket.io/`.

use std::sync::Arc;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{Method, Request, request::Parts};
use serde_json::json;

use super::{
    Engine,
    errors::RequestError,
    frame, handshake,
    packet::Format,
    query::Query,
    session::{RouteError, Session},
    websocket,
};
use crate::{
    conn::{caller::Caller, connection::Connection},
    metrics::Transport,
};

impl Engine {
    /// Answers a request to `/socket.io/`. Its extensions have the [`Connection`] on which it came.
    ///
    /// # Cancel safety
    /// A poll or POST that is dropped ends; its session goes on.
    pub async fn answer(self: &Arc<Self>, request: Request<Body>) -> Response {
        self.serve(request).await.unwrap_or_else(|problem| {
            if let Some(reason) = problem.refusal() {
                self.metrics.refusals(reason).inc();
            }
            problem.into_response()
        })
    }

    async fn serve(self: &Arc<Self>, request: Request<Body>) -> Result<Response, RequestError> {
        let (parts, body) = request.into_parts();
        let query = Query::read(&parts.method, &parts.uri)?;
        let caller = Caller::of(&parts.extensions);
        let caller = caller.ok_or(RequestError::BadRequest("the request has no connection"))?;
        caller.pace().await;
        let connection = caller.connection();
        let Some(sid) = &query.sid else {
            return match query.transport {
                Transport::Polling => self.open_polling(query.format, &parts, &caller),
                Transport::WebSocket => self.open_websocket(query.format, &parts, connection),
            };
        };
        let session = self.find(sid).filter(|session| session.ended().is_none());
        let session = session.ok_or(RequestError::UnknownSession)?;
        match (query.transport, &parts.method) {
            (Transport::WebSocket, _) => open_probe(session, &parts, connection),
            (Transport::Polling, &Method::POST) => self.post(&session, &parts, body, &caller).await,
            (Transport::Polling, _) => self.poll(&session, connection).await,
        }
    }

    /// Opens a session that is polled.
    fn open_polling(
        self: &Arc<Self>,
        format: Format,
        parts: &Parts,
        caller: &Caller,
    ) -> Result<Response, RequestError> {
        let place = self.place(caller.address())?;
        let session = Session::open(self, format, Some(place), parts);
        let open = self.open_packet(&session, &["websocket"]);
        session.enter_by_itself();
        Ok(super::polling::packets(format, &[frame::text(&[open.as_bytes()])]))
    }

    /// Opens a session on the WebSocket that this request becomes.
    fn open_websocket(
        self: &Arc<Self>,
        format: Format,
        parts: &Parts,
        connection: &Connection,
    ) -> Result<Response, RequestError> {
        let response = handshake::answer(parts)?;
        let session = Session::open(self, format, None, parts);
        let open = self.open_packet(&session, &[]);
        session.send(&frame::text(&[open.as_bytes()]));
        session.enter_by_itself();
        let opening = websocket::Opening::new(session);
        connection.on_upgrade(move |upgraded| opening.start(upgraded));
        Ok(response)
    }

    /// Engine.IO's first packet.
    fn open_packet(&self, session: &Session, upgrades: &[&str]) -> String {
        let settings = &self.settings;
        let open = json!({
            "sid": session.sid().as_str(),
            "upgrades": upgrades,
            "pingInterval": settings.ping_interval.as_millis() as u64,
            "pingTimeout": settings.ping_timeout.as_millis() as u64,
            "maxPayload": settings.max_body,
        });
        format!("0{open}")
    }
}

/// Opens a WebSocket to which a polled session may upgrade.
fn open_probe(
    session: Arc<Session>,
    parts: &Parts,
    connection: &Connection,
) -> Result<Response, RequestError> {
    let response = handshake::answer(parts)?;
    session.begin_probe().map_err(RequestError::from)?;
    let probing = websocket::Probing::new(session);
    connection.on_upgrade(move |upgraded| probing.start(upgraded));
    Ok(response)
}

impl From<RouteError> for RequestError {
    fn from(refused: RouteError) -> Self {
        match refused {
            RouteError::Ended => Self::UnknownSession,
            RouteError::Upgraded => Self::BadRequest("the session has a WebSocket"),
            RouteError::Overlap => Self::BadRequest("another request of this kind is under way"),
        }
    }
}
