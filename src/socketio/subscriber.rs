//! A socket as a member of a room: messages on their way past the engine, as frames, or into its
//! queue, where a session is carried by polls or has yet to be upgraded.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use serde::{Serialize, Serializer};
use socketioxide::{SendError, SocketError, extract::SocketRef};
use tracing::error;

use super::{frames, source::SourceOutlet, viewer::Viewer};
use crate::{
    conn::{
        backlog::Peer,
        stream::{Control, FENCE},
    },
    log_limit::LogLimit,
    message::Gap,
    metrics::Close,
    outages::catch_up,
    rooms::{
        Subscriber,
        delivery::{Batch, Delivery},
        history::HistoryEntry,
    },
};

/// What the packets of a message are besides the payload and its place, for knowing their size.
const TEXT: &str = r#"42["message",]"#;
const BINARY: &str = r#"451-["message",{"_placeholder":true,"num":0}]"#;

static NOT_ENCODED: LogLimit = LogLimit::new(1);

/// One membership of one socket.
pub struct SocketSubscriber {
    socket: SocketRef,
    viewer: Arc<Viewer>,
    stream: OnceLock<Arc<Control>>,
    meta: Option<Arc<SourceOutlet>>,
    /// Held while messages go out: who closes it knows that none comes after.
    open: Mutex<bool>,
}

impl SocketSubscriber {
    /// With `meta`, messages come with their place, and gaps are told.
    pub fn new(socket: SocketRef, viewer: Arc<Viewer>, meta: Option<Arc<SourceOutlet>>) -> Self {
        Self { socket, viewer, stream: OnceLock::new(), meta, open: Mutex::new(true) }
    }

    /// Takes nothing more, also of what is on its way.
    pub fn close(&self) {
        *lock(&self.open) = false;
    }

    /// Sends what is kept of a room's past, oldest first: after all that the socket has been sent,
    /// and before the room's next message. Under the room's lock.
    pub fn replay(&self, room: &Arc<str>, messages: Vec<HistoryEntry>) {
        let again = |kept| Delivery::again(room.clone(), kept);
        let past: Vec<Delivery> = messages.into_iter().map(again).collect();
        let session = self.viewer.session();
        let sizes = past.iter().flat_map(|delivery| self.packets(delivery));
        let sent = session
            .queue_replay(sizes)
            .and_then(|()| past.iter().try_for_each(|delivery| queued(self.emit(delivery))))
            .and_then(|()| self.fence(false).map(drop));
        // A client that does not even take its past: its stream ends, and with that the rest.
        if let Err(reason) = sent {
            session.end(reason);
        }
    }

    fn has_meta(&self) -> bool {
        self.meta.is_some()
    }

    /// The bytes of a message's packets; 0 is none.
    fn packets(&self, delivery: &Delivery) -> impl Iterator<Item = usize> {
        let meta = if self.has_meta() { ",".len() + delivery.meta().get().len() } else { 0 };
        let sizes = match delivery.text() {
            Some(text) => [TEXT.len() + text.get().len() + meta, 0],
            None => [BINARY.len() + meta, delivery.payload.len()],
        };
        sizes.into_iter().filter(|&size| size > 0)
    }

    /// Lets frames that are pushed from now on come after what the engine has been given until now;
    /// with `first`, if nothing does so yet. `false`: no frames can be pushed, or the client is
    /// leaving.
    fn fence(&self, first: bool) -> Result<bool, Close> {
        let Some(stream) = self.stream() else { return Ok(false) };
        let given = stream.fence(first, || self.socket.emit(FENCE, &[(); 0]));
        let stands = given.is_ok();
        queued(given).map(|()| stands)
    }

    /// Where frames can be pushed, if the session is carried so; then it stays so.
    fn stream(&self) -> Option<&Arc<Control>> {
        if self.stream.get().is_none() {
            let _ = self.stream.set(self.viewer.session().framed()?);
        }
        self.stream.get()
    }

    /// How many were taken.
    fn push(&self, stream: &Arc<Control>, batch: &Batch) -> Result<usize, Close> {
        // Whose client is leaving gets nothing more: the engine has refused what came before. After
        // an upgrade, polls may have left something.
        if !self.socket.connected() || !self.fence(true)? {
            return Ok(0);
        }
        if stream.push(&frames::encoded(batch, self.has_meta(), self.socket.protocol()))? {
            stream.quota().evict_largest();
        }
        stream.ended().map_or(Ok(batch.len()), Err)
    }

    fn queue(&self, batch: &Batch, taken: &mut usize) -> Result<(), Close> {
        self.viewer.session().queue(batch.iter().flat_map(|delivery| self.packets(delivery)))?;
        batch.iter().try_for_each(|delivery| {
            let sent = self.emit(delivery);
            *taken += usize::from(sent.is_ok());
            queued(sent)
        })
    }

    fn emit(&self, delivery: &Delivery) -> Result<(), SendError> {
        match (delivery.text(), self.has_meta()) {
            (Some(text), false) => self.socket.emit("message", text),
            (Some(text), true) => self.socket.emit("message", &(text, delivery.meta())),
            (None, false) => self.socket.emit("message", &Binary(&delivery.payload)),
            (None, true) => {
                self.socket.emit("message", &(Binary(&delivery.payload), delivery.meta()))
            }
        }
    }
}

impl Subscriber for SocketSubscriber {
    fn deliver(&self, batch: &Batch) -> usize {
        let open = lock(&self.open);
        if !*open {
            return 0;
        }
        let mut taken = 0;
        let sent = match self.stream() {
            Some(stream) => self.push(stream, batch).map(|pushed| taken = pushed),
            // It may have become a stream's meanwhile, and others may push to that.
            None => self.queue(batch, &mut taken).and_then(|()| self.fence(false).map(drop)),
        };
        drop(open);
        if let Err(reason) = sent {
            self.viewer.end(reason);
        }
        taken
    }

    fn gap(&self, room: &str, gap: &Gap) {
        #[derive(Serialize)]
        struct Told<'a> {
            room: &'a str,
            #[serde(flatten)]
            gap: &'a Gap,
        }
        if let Some(source) = &self.meta
            && *lock(&self.open)
        {
            // That the source is back is told first, by whoever comes first.
            catch_up(&**source);
            let told = queued(self.socket.emit("gap", &Told { room, gap }));
            // Under the room's lock, so the viewer stays in it until the stream's end is noticed.
            if let Err(reason) = told.and_then(|()| self.fence(false).map(drop)) {
                self.viewer.session().end(reason);
            }
        }
    }

    fn hello(&self) {
        // No arguments, as in the demo.
        let _ = self.socket.emit("hello", &[(); 0]);
    }
}

/// What is to become of a client after a packet was sent to it.
pub fn queued(sent: Result<(), SendError>) -> Result<(), Close> {
    match sent {
        Err(SendError::Socket(SocketError::InternalChannelFull)) => Err(Close::QueueFull),
        // Its end is on the way to us.
        Ok(()) | Err(SendError::Socket(_)) => Ok(()),
        Err(SendError::Serialize(error)) => {
            let error = error.to_string();
            NOT_ENCODED.line(move |left_out| error!(left_out, "cannot encode a message: {error}"));
            Ok(())
        }
    }
}

fn lock(open: &Mutex<bool>) -> MutexGuard<'_, bool> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that become a binary attachment.
struct Binary<'a>(&'a Bytes);

impl Serialize for Binary<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}
