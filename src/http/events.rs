//! `/events/{room}`: the same messages as Server-Sent Events, for curl and for EventSource.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::{
    broker::Gap,
    delivery::Delivery,
    history::{Position, Wish},
    metrics::Close,
    rooms::{Member, Outlet, Rooms},
    stream::Control,
};

/// Events that may wait for one client, as for a socket.
const QUEUE: usize = 4096;
/// How often a comment goes out when nothing else does: proxies cut what is silent for a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The query of a request.
#[derive(Deserialize)]
pub struct Asked {
    last: Option<usize>,
}

/// Follows a room until the client goes.
pub async fn follow(
    State(rooms): State<Arc<Rooms>>,
    Path(room): Path<String>,
    Query(asked): Query<Asked>,
    Extension(stream): Extension<Arc<Control>>,
    headers: HeaderMap,
) -> Response {
    if let Err(problem) = Rooms::check_name(&room) {
        return (StatusCode::BAD_REQUEST, format!("{problem}\n")).into_response();
    }
    let since = match headers.get("last-event-id").map(|id| position(id.as_bytes())) {
        Some(None) => {
            let text = "Last-Event-ID is the id of an event from here: epoch-offset\n";
            return (StatusCode::BAD_REQUEST, text).into_response();
        }
        since => since.flatten(),
    };
    let (events, waiting) = mpsc::channel(QUEUE);
    let outlet = Arc::new(EventOutlet { events, stream: stream.clone() });
    let first = outlet.clone();
    let wish = Wish { last: asked.last, since };
    let member = rooms.join(&room, None, outlet, &wish, |welcome, messages| {
        let Position { epoch, offset } = welcome.position;
        first.send(event("joined", welcome).id(id(epoch, *offset)));
        let name: Arc<str> = room.as_str().into();
        for kept in messages {
            first.send(message(&Delivery::again(name.clone(), kept)));
        }
    });
    let membership = Membership { rooms, room, member };
    let events = stream::unfold((waiting, membership), async |(mut waiting, membership)| {
        let event = waiting.recv().await?;
        Some((Ok::<_, Infallible>(event), (waiting, membership)))
    });
    let end = stream.finishing().clone().cancelled_owned();
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Sse::new(events.take_until(end)).keep_alive(keep_alive).into_response()
}

/// Leaves the room when the response is gone.
struct Membership {
    rooms: Arc<Rooms>,
    room: String,
    member: Member,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.rooms.leave(&self.room, self.member);
    }
}

/// A response as a member of a room.
struct EventOutlet {
    events: mpsc::Sender<Event>,
    stream: Arc<Control>,
}

impl EventOutlet {
    /// Whether the event was taken; a client whose queue is full is ended.
    fn send(&self, event: Event) -> bool {
        match self.events.try_send(event) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.stream.end(Close::QueueFull);
                false
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }
}

impl Outlet for EventOutlet {
    fn deliver(&self, batch: &[Delivery]) -> usize {
        batch.iter().take_while(|delivery| self.send(message(delivery))).count()
    }

    fn gap(&self, _room: &str, gap: &Gap) {
        self.send(event("gap", gap));
    }

    fn hello(&self) {
        self.send(Event::default().event("hello").data(""));
    }
}

/// Text as it is, line by line; other bytes in base64, as an event of another name.
fn message(delivery: &Delivery) -> Event {
    let event = Event::default().id(id(&delivery.place.epoch, delivery.place.offset));
    match std::str::from_utf8(&delivery.payload) {
        Ok(text) => event.data(text),
        Err(_) => event.event("binary").data(BASE64_STANDARD.encode(&delivery.payload)),
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
