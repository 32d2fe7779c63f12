//! `/events/{room}`: the messages of one room as Server-Sent Events, for curl and EventSource.

use std::{
    borrow::Cow, collections::VecDeque, convert::Infallible, future::pending, sync::Arc,
    time::Duration,
};

use axum::{
    extract::{Path, Query, State},
    http::{Extensions, HeaderMap, HeaderName, Method, StatusCode, Uri, header},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::{
    select,
    sync::mpsc::{self, error::TrySendError::Full},
    time::sleep,
};

use super::{bearer, query::whole_number};
use crate::{
    auth::Auth,
    clock::now,
    conn::{caller::Caller, connection::Connection},
    health::SourceSignal,
    message::Gap,
    metrics::{Close, Metrics},
    outages::{self, Listener, Outages, Told},
    position::Position,
    rooms::{
        JoinReply, Member, Rooms, Subscriber,
        cursor::{Piece, ReplayCursor},
        delivery::{Batch, Delivery},
        history::ReplayRequest,
    },
    socketio::Refusal,
};

/// Headers that keep proxies from holding events back: nginx buffers answers, others compress them.
const HEADERS: [(HeaderName, &str); 2] = [
    (header::CACHE_CONTROL, "no-cache, no-transform"),
    (HeaderName::from_static("x-accel-buffering"), "no"),
];
/// Events that may be queued for one client, the same number as batches for a socket.
const QUEUE: usize = 4096;
/// Bytes of a one-line event besides its id and payload: field names, line ends, chunk framing.
const FRAMING: usize = "id: \ndata: \n\n0\r\n\r\n".len();
/// Interval of the comments sent while there are no events: proxies close connections that are
/// silent for a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// State of the route.
#[derive(Clone)]
pub struct Following {
    /// The rooms that clients join.
    pub rooms: Arc<Rooms>,
    /// Checks the tokens of clients.
    pub auth: Arc<Auth>,
    /// Tells clients when the source goes down and comes back.
    pub outages: Arc<Outages>,
    /// Counts the ends of event streams by reason.
    pub metrics: Arc<Metrics>,
}

/// Query parameters of a request.
#[derive(Deserialize)]
pub struct Parameters {
    /// How many of the latest messages to replay. Text, because a number may be too large.
    last: Option<String>,
    /// The id of the last event, from clients that cannot set the header `Last-Event-ID`.
    #[serde(rename = "lastEventId")]
    last_event_id: Option<String>,
}

/// Joins a room and answers with its event stream, which lasts until the client disconnects, the
/// token expires or the server closes the connection.
///
/// Answers 401 without a valid token, 403 for a room that the token does not allow, 400 for a bad
/// room name. A `Last-Event-ID` that is no position of this server opens the stream all the same: an
/// EventSource never comes back from an error. HEAD gets the headers alone, and joins nothing.
pub async fn follow(
    method: Method,
    State(Following { rooms, auth, outages, metrics }): State<Following>,
    Path(room): Path<String>,
    uri: Uri,
    Query(parameters): Query<Parameters>,
    extensions: Extensions,
    headers: HeaderMap,
) -> Response {
    let Some(caller) = Caller::of(&extensions) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let stream = caller.connection().clone();
    let ends = match bearer::watcher(&auth, &headers, &uri, &room) {
        Ok(grant) => grant.ends,
        Err(refused) => return refused.into_response(),
    };
    let last = match whole_number("last", parameters.last.as_deref()) {
        Ok(last) => last,
        Err(refused) => return refused.into_response(),
    };
    caller.pace().await;
    if method == Method::HEAD {
        return (HEADERS, [(header::CONTENT_TYPE, "text/event-stream")]).into_response();
    }
    let id = headers.get("last-event-id").map(|id| id.as_bytes());
    let id = id.or(parameters.last_event_id.as_ref().map(String::as_bytes));
    let since = id.map(|id| position(id).unwrap_or_else(Position::unknown));
    let (events, waiting) = mpsc::channel(QUEUE);
    let subscriber =
        Arc::new(EventSubscriber { events, stream: stream.clone(), told: outages.told() });
    let request = ReplayRequest { last, since, appends: true };
    let joined = rooms.join(&room, None, subscriber.clone(), &request, |reply, missing| {
        subscriber.welcome(reply, missing);
    });
    outages::enter(&subscriber);
    let member = Some(joined.member);
    let membership =
        StreamMembership { rooms, room: joined.room, member, stream, metrics, expired: false };
    let replay = joined.replay.map(|cursor| (cursor, subscriber));
    let body = EventBody { read: VecDeque::new(), waiting, replay, membership, ends };
    let events = stream::unfold(Some(body), |body| async move {
        let (event, body) = body?.next().await?;
        Some((Ok::<_, Infallible>(event), body))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    (HEADERS, Sse::new(events).keep_alive(keep_alive)).into_response()
}

/// The events of one stream, in their order.
struct EventBody {
    /// A piece of the replay.
    read: VecDeque<Event>,
    /// What was sent outside of the replay.
    waiting: mpsc::Receiver<Event>,
    /// The replay, until it is complete.
    replay: Option<(ReplayCursor, Arc<EventSubscriber>)>,
    membership: StreamMembership,
    /// When the token expires, in ms since the Unix epoch.
    ends: Option<u64>,
}

impl EventBody {
    /// The next event, and what follows; nothing follows the last one. HTTP asks for it when the client
    /// has read what came before, so a replay is read as fast as its client reads.
    async fn next(mut self) -> Option<(Event, Option<Self>)> {
        let stream = self.membership.stream.clone();
        loop {
            if let Some(event) = self.read.pop_front() {
                return Some((event, Some(self)));
            }
            let rooms = self.membership.rooms.clone();
            select! {
                // Queued events are sent before the stream finishes.
                biased;
                next = self.waiting.recv() => return Some((next?, Some(self))),
                () = stream.finishes() => return None,
                () = end_of(self.ends) => {
                    self.membership.expired = true;
                    return Some((expired(), None));
                }
                _turn = rooms.replay_turn(), if self.replay.is_some() => self.read_piece(),
            }
        }
    }

    /// Reads the next piece of the replay.
    fn read_piece(&mut self) {
        let Some((cursor, subscriber)) = &mut self.replay else { return };
        let Some(member) = &self.membership.member else { return };
        match cursor.next(member) {
            Piece::Messages(messages) => {
                let room = &self.membership.room;
                let messages = messages.into_iter().map(|kept| Delivery::new(room.clone(), kept));
                let events = messages.map(|message| message_event(&message));
                self.read.extend(events.map(|(event, bytes)| {
                    subscriber.stream.queue_piece(bytes);
                    event
                }));
            }
            Piece::Newest(message) => cursor.deliver(message),
            Piece::Gap(gap) => self.read.push_back(event("gap", &gap)),
            Piece::Live => self.replay = None,
        }
    }
}

/// Waits until the token expires, a time in ms since the Unix epoch; for ever if it never does.
async fn end_of(token: Option<u64>) {
    match token {
        Some(ends) => sleep(Duration::from_millis(ends.saturating_sub(now()))).await,
        None => pending().await,
    }
}

fn expired() -> Event {
    let message = "the token has expired: connect again with a new one";
    event("error", &Refusal::new("expired", message))
}

/// Membership of one event stream in its room.
///
/// The response body owns it. However the response ends, dropping it leaves the room and counts the
/// reason.
struct StreamMembership {
    rooms: Arc<Rooms>,
    room: Arc<str>,
    /// Taken when the membership ends.
    member: Option<Member>,
    stream: Arc<Connection>,
    metrics: Arc<Metrics>,
    expired: bool,
}

impl Drop for StreamMembership {
    fn drop(&mut self) {
        if let Some(member) = self.member.take() {
            self.rooms.leave(&self.room, member);
        }
        // If the server has ended the stream, the end has been counted already.
        if self.stream.ended().is_none() {
            let reason = if self.expired {
                Close::Expired
            } else if self.stream.is_asked() {
                Close::Stop
            } else if self.stream.is_broken() {
                Close::TransportError
            } else {
                Close::Client
            };
            self.metrics.closed(reason).inc();
        }
    }
}

/// An event stream as a subscriber of a room.
///
/// Room and outages push events into a bounded queue, from which the response body reads. A full
/// queue, or too large a backlog, ends the connection with the reason.
struct EventSubscriber {
    events: mpsc::Sender<Event>,
    stream: Arc<Connection>,
    told: Told,
}

impl EventSubscriber {
    /// Queues an event of `bytes` bytes; `false` if it was not queued. A client with too large a
    /// backlog is disconnected.
    fn send(&self, event: Event, bytes: usize) -> bool {
        let sent = self.stream.queue(bytes).and_then(|()| match self.events.try_send(event) {
            Err(Full(_)) => Err(Close::QueueFull),
            sent => Ok(sent.is_ok()),
        });
        sent.unwrap_or_else(|reason| {
            self.stream.end(reason);
            false
        })
    }

    /// Answers a join. If something is replayed or missing, the answer has no id: a client that loses
    /// the connection before it has got that asks for it again.
    fn welcome(&self, reply: &JoinReply<'_>, missing: Option<&Gap>) {
        let Position { epoch, offset } = reply.position;
        let mut events = vec![event("joined", reply)];
        events.extend(missing.map(|gap| event("gap", gap)));
        if reply.replayed == 0 {
            let last = events.pop();
            events.extend(last.map(|last| last.id(event_id(epoch, *offset))));
        }
        for event in events {
            self.send(event, 0);
        }
    }
}

/// A message as an event, and its bytes: text as one `data` field per line, whatever ends its lines, and
/// other bytes in base64 as the event `binary`. EventSource ignores events without data, so an empty
/// payload is the event `empty`.
fn message_event(delivery: &Delivery) -> (Event, usize) {
    let id = event_id(&delivery.place.epoch, delivery.place.offset);
    let bytes = FRAMING + id.len() + delivery.payload.len();
    let event = Event::default().id(id);
    let event = match std::str::from_utf8(&delivery.payload) {
        Ok("") => event.event("empty").data("{}"),
        Ok(text) => event.data(one_line_end(text)),
        Err(_) => event.event("binary").data(BASE64_STANDARD.encode(&delivery.payload)),
    };
    (event, bytes)
}

impl Subscriber for EventSubscriber {
    fn deliver(&self, batch: &Batch) -> usize {
        let send = |delivery: &&Delivery| {
            let (event, bytes) = message_event(delivery);
            self.send(event, bytes)
        };
        batch.iter().take_while(send).count()
    }

    fn gap(&self, _room: &str, gap: &Gap) {
        outages::catch_up(self);
        self.send(event("gap", gap), 0);
    }

    fn hello(&self) {
        self.send(Event::default().event("hello").data("{}"), 0);
    }
}

impl Listener for EventSubscriber {
    fn told(&self) -> &Told {
        &self.told
    }

    fn tell(&self, signal: SourceSignal) {
        self.send(event("source", &signal), 0);
    }
}

/// Writes each `\r\n` and lone `\r` as `\n`: in an event stream all three end a line.
fn one_line_end(text: &str) -> Cow<'_, str> {
    if text.contains('\r') {
        text.replace("\r\n", "\n").replace('\r', "\n").into()
    } else {
        text.into()
    }
}

fn event(name: &str, data: &impl Serialize) -> Event {
    let data = serde_json::to_string(data).unwrap_or_default();
    Event::default().event(name).data(data)
}

fn event_id(epoch: &str, offset: u64) -> String {
    format!("{epoch}-{offset}")
}

fn position(id: &[u8]) -> Option<Position> {
    let (epoch, offset) = std::str::from_utf8(id).ok()?.split_once('-')?;
    Some(Position { epoch: epoch.into(), offset: offset.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_end_in_one_way() {
        assert_eq!(one_line_end("a\r\nb\rc\n\r\n"), "a\nb\nc\n\n");
        assert_eq!(one_line_end("a\nb"), "a\nb");
    }

    proptest! {
        #[test]
        fn an_id_survives_a_round_trip(epoch in "[0-9a-f]{12}", offset: u64) {
            let read = position(event_id(&epoch, offset).as_bytes());
            prop_assert_eq!(read, Some(Position { epoch: epoch.into(), offset }));
        }

        #[test]
        fn parsing_an_id_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = position(&bytes);
        }
    }
}
