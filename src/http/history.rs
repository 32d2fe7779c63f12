//! `/history/{room}`: the latest messages of one room as JSON.

use std::{convert::Infallible, future::ready, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::{Path, Query, State},
    http::{Extensions, HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::stream;
use serde::{Deserialize, Serialize};

use super::{bearer, query::whole_number};
use crate::{
    auth::Auth,
    conn::caller::Caller,
    position::Position,
    rooms::{Rooms, history::HistoryEntry, past::Past},
};

/// Messages of an answer if the request does not say how many.
const LAST: usize = 10;

/// State of the route.
#[derive(Clone)]
pub struct Reading {
    /// The rooms that are read.
    pub rooms: Arc<Rooms>,
    /// Checks the tokens of clients.
    pub auth: Arc<Auth>,
}

/// Query parameters of a request.
#[derive(Deserialize)]
pub struct Parameters {
    /// How many of the latest messages. Text, because a number may be too large.
    last: Option<String>,
}

/// A message as the answer has it.
#[derive(Serialize)]
struct Message<'a> {
    offset: u64,
    /// Left out if it is the epoch of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<&'a str>,
    /// When it arrived, in ms since the Unix epoch.
    at: u64,
    /// The payload, or its base64 if `binary`.
    payload: &'a str,
    #[serde(skip_serializing_if = "is_false")]
    binary: bool,
}

/// Answers with `{room, epoch, offset, messages: [{offset, at, payload}]}`, the oldest message first.
/// The answer is written piece by piece, as fast as the client reads.
///
/// 401 without a valid token, 403 for a room that the token does not allow, 400 for a bad room name or
/// number. A room that does not exist has no messages.
pub async fn read(
    method: Method,
    State(Reading { rooms, auth }): State<Reading>,
    Path(room): Path<String>,
    uri: Uri,
    Query(parameters): Query<Parameters>,
    extensions: Extensions,
    headers: HeaderMap,
) -> Response {
    let Some(caller) = Caller::of(&extensions) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    if let Err(refused) = bearer::watcher(&auth, &headers, &uri, &room) {
        return refused.into_response();
    }
    let last = match whole_number("last", parameters.last.as_deref()) {
        Ok(last) => last.unwrap_or(LAST),
        Err(refused) => return refused.into_response(),
    };
    caller.pace().await;
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    if method == Method::HEAD {
        return content_type.into_response();
    }
    let past = rooms.past(&room, last);
    let answer = Answer { room, past, state: AnswerState::Head };
    let connection = caller.connection().clone();
    let pieces = stream::unfold(answer, move |mut answer| {
        // The pieces count in what waits for the client: one that does not read is disconnected.
        let piece = answer.next().and_then(|piece| match connection.queue(piece.len()) {
            Ok(()) => Some(piece),
            Err(reason) => {
                connection.end(reason);
                None
            }
        });
        ready(piece.map(|piece| (Ok::<_, Infallible>(piece), answer)))
    });
    (content_type, Body::from_stream(pieces)).into_response()
}

/// An answer that is being written.
struct Answer {
    room: String,
    past: Past,
    state: AnswerState,
}

/// What comes next.
enum AnswerState {
    Head,
    FirstMessage,
    NextMessage,
    Nothing,
}

impl Answer {
    /// The next part of the JSON; `None` at the end.
    fn next(&mut self) -> Option<Bytes> {
        if matches!(self.state, AnswerState::Nothing) {
            return None;
        }
        let mut text = String::new();
        if matches!(self.state, AnswerState::Head) {
            self.state = AnswerState::FirstMessage;
            text.push_str(&self.head());
        }
        match self.past.piece() {
            Some(piece) => piece.iter().for_each(|entry| {
                if matches!(self.state, AnswerState::NextMessage) {
                    text.push(',');
                }
                self.state = AnswerState::NextMessage;
                text.push_str(&message(entry, &self.past.position.epoch));
            }),
            None => {
                self.state = AnswerState::Nothing;
                text.push_str("]}\n");
            }
        }
        Some(text.into())
    }

    /// The beginning of the JSON, up to the first message.
    fn head(&self) -> String {
        #[derive(Serialize)]
        struct Head<'a> {
            room: &'a str,
            #[serde(flatten)]
            position: &'a Position,
        }
        let head = Head { room: &self.room, position: &self.past.position };
        let head = serde_json::to_string(&head).unwrap_or_default();
        format!("{},\"messages\":[", head.strip_suffix('}').unwrap_or_default())
    }
}

fn message(entry: &HistoryEntry, epoch: &str) -> String {
    let text = std::str::from_utf8(&entry.payload);
    let encoded =
        if text.is_err() { BASE64_STANDARD.encode(&entry.payload) } else { String::new() };
    let message = Message {
        offset: entry.epoch.offset(entry.number),
        epoch: Some(&*entry.epoch.name).filter(|own| *own != epoch),
        at: entry.at,
        payload: text.unwrap_or(&encoded),
        binary: text.is_err(),
    };
    // It holds only strings and numbers: encoding cannot fail.
    serde_json::to_string(&message).unwrap_or_default()
}

fn is_false(flag: &bool) -> bool {
    !flag
}
