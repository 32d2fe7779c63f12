//! `/events/{room}`: the same messages as Server-Sent Events, for curl and for EventSource.

use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, Uri},
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

use super::bearer;
use crate::{
    auth::{Auth, WATCHING},
    clock::now,
    conn::stream::Control,
    health::SourceSignal,
    message::Gap,
    metrics::{Close, Metrics},
    outages::{self, Listener, Outages, Told},
    rooms::{
        Member, Rooms, Subscriber,
        delivery::{Batch, Delivery},
        history::{Position, ReplayRequest},
    },
    socketio::Refusal,
};

/// Events that may wait for one client, as for a socket.
const QUEUE: usize = 4096;
/// What an event of one line is besides its id and payload: their names, line ends, a chunk's frame.
const FRAMING: usize = "id: \ndata: \n\n0\r\n\r\n".len();
/// How often a comment goes out when nothing else does: proxies cut what is silent for a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What it takes to follow a room.
#[derive(Clone)]
pub struct Following {
    /// The rooms.
    pub rooms: Arc<Rooms>,
    /// Who may watch them.
    pub auth: Arc<Auth>,
    /// Whether the source is there.
    pub outages: Arc<Outages>,
    /// Why followers are gone.
    pub metrics: Arc<Metrics>,
}

/// The query of a request.
#[derive(Deserialize)]
pub struct Asked {
    last: Option<usize>,
}

/// Follows a room until the client goes.
pub async fn follow(
    State(Following { rooms, auth, outages, metrics }): State<Following>,
    Path(room): Path<String>,
    uri: Uri,
    Query(asked): Query<Asked>,
    Extension(stream): Extension<Arc<Control>>,
    headers: HeaderMap,
) -> Response {
    let grant = match auth.viewer(bearer::of(&headers, &uri), now()) {
        Ok(grant) => grant,
        Err(problem) => {
            problem.log(WATCHING);
            return bearer::unauthorised(&problem);
        }
    };
    if let Err(problem) = Rooms::check_name(&room) {
        return (StatusCode::BAD_REQUEST, format!("{problem}\n")).into_response();
    }
    if !grant.may_join(&room) {
        return bearer::forbidden("rooms", &room);
    }
    let ends = grant.ends;
    let since = match headers.get("last-event-id").map(|id| position(id.as_bytes())) {
        Some(None) => {
            let text = "Last-Event-ID is the id of an event from here: epoch-offset\n";
            return (StatusCode::BAD_REQUEST, text).into_response();
        }
        since => since.flatten(),
    };
    let (events, waiting) = mpsc::channel(QUEUE);
    let subscriber =
        Arc::new(EventSubscriber { events, stream: stream.clone(), told: outages.told() });
    let first = subscriber.clone();
    let wish = ReplayRequest { last: asked.last, since };
    let member = rooms.join(&room, None, subscriber, &wish, |welcome, messages| {
        let Position { epoch, offset } = welcome.position;
        first.send(event("joined", welcome).id(id(epoch, *offset)), 0);
        let name: Arc<str> = room.as_str().into();
        for kept in messages {
            first.message(&Delivery::again(name.clone(), kept));
        }
    });
    outages::enter(&first);
    let membership = Membership { rooms, room, member, stream, metrics, expired: false };
    let events = stream::unfold(Some((waiting, membership)), move |following| async move {
        let (mut waiting, mut membership) = following?;
        let stream = membership.stream.clone();
        select! {
            // What waits goes out, also when the stream is to finish.
            biased;
            next = waiting.recv() => {
                Some((Ok::<_, Infallible>(next?), Some((waiting, membership))))
            }
            () = stream.finishes() => None,
            () = end_of(ends) => {
                membership.expired = true;
                Some((Ok(expired()), None))
            }
        }
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Sse::new(events).keep_alive(keep_alive).into_response()
}

/// When the token ends.
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

/// Leaves the room when the response is gone, and counts why it is.
struct Membership {
    rooms: Arc<Rooms>,
    room: String,
    member: Member,
    stream: Arc<Control>,
    metrics: Arc<Metrics>,
    expired: bool,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.rooms.leave(&self.room, self.member);
        // Otherwise it has been counted.
        if self.stream.ended().is_none() {
            let reason = if self.expired {
                Close::Expired
            } else if self.stream.finishing().is_cancelled() {
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

/// A response as a member of a room.
struct EventSubscriber {
    events: mpsc::Sender<Event>,
    stream: Arc<Control>,
    told: Told,
}

impl EventSubscriber {
    /// Whether the event of so many bytes was taken; a client that too much waits for is ended.
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

    /// Text as it is, line by line; other bytes in base64, as an event of another name. One without
    /// data reaches no page, so an empty payload has a name of its own too.
    fn message(&self, delivery: &Delivery) -> bool {
        let id = id(&delivery.place.epoch, delivery.place.offset);
        let bytes = FRAMING + id.len() + delivery.payload.len();
        let event = Event::default().id(id);
        let event = match std::str::from_utf8(&delivery.payload) {
            Ok("") => event.event("empty").data("{}"),
            Ok(text) => event.data(text),
            Err(_) => event.event("binary").data(BASE64_STANDARD.encode(&delivery.payload)),
        };
        self.send(event, bytes)
    }
}

impl Subscriber for EventSubscriber {
    fn deliver(&self, batch: &Batch) -> usize {
        batch.iter().take_while(|delivery| self.message(delivery)).count()
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

fn event(name: &str, data: &impl Serialize) -> Event {
    let data = serde_json::to_string(data).unwrap_or_default();
    Event::default().event(name).data(data)
}

fn id(epoch: &str, offset: u64) -> String {
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

    proptest! {
        #[test]
        fn an_id_is_read_as_it_was_written(epoch in "[0-9a-f]{12}", offset: u64) {
            let read = position(id(&epoch, offset).as_bytes());
            prop_assert_eq!(read, Some(Position { epoch: epoch.into(), offset }));
        }

        #[test]
        fn any_bytes_are_an_id_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = position(&bytes);
        }
    }
}
