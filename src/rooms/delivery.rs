//! A message with its room and offset, encoded at most once however many members receive it.

use std::{
    ops::Deref,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::history::HistoryEntry;

/// The encodings of a batch: with or without [`MessageMeta`], for Engine.IO 3 or 4.
const FORMS: usize = 4;

/// Messages of one room that its members receive together.
pub struct Batch {
    deliveries: Vec<Delivery>,
    encoded: [OnceLock<Bytes>; FORMS],
}

/// A message as the members of its room receive it.
#[derive(Clone)]
pub struct Delivery {
    /// The message's room, epoch, offset and time.
    pub place: MessageMeta,
    /// The publisher's bytes.
    pub payload: Bytes,
    text: OnceLock<Option<Box<RawValue>>>,
    meta: OnceLock<Box<RawValue>>,
}

/// A message's room, epoch, offset and time: the second argument of the event `message`, for
/// clients that joined with `meta`.
#[derive(Clone, Debug, Serialize)]
pub struct MessageMeta {
    /// The room's name, which is the name of the message's channel.
    pub room: Arc<str>,
    /// The epoch that the offsets belong to.
    pub epoch: Arc<str>,
    /// Counts the messages of all rooms within an epoch.
    pub offset: u64,
    /// The offset of the room's message before, or the one up to which messages of the room may be
    /// missing: a client that has this position, or a later one, has all messages up to this one.
    pub prev: u64,
    /// When the message arrived, in ms since the Unix epoch by the server's clock.
    pub at: u64,
}

impl Batch {
    /// The batch in one of the four forms. The first caller for a form encodes it; all others share
    /// its bytes.
    ///
    /// # Panics
    /// If `form` is 4 or more.
    pub fn encoded(&self, form: usize, encode: impl FnOnce(&[Delivery]) -> Bytes) -> &Bytes {
        self.encoded[form].get_or_init(|| encode(&self.deliveries))
    }
}

impl From<Vec<Delivery>> for Batch {
    fn from(deliveries: Vec<Delivery>) -> Self {
        Self { deliveries, encoded: Default::default() }
    }
}

impl From<Delivery> for Batch {
    fn from(delivery: Delivery) -> Self {
        vec![delivery].into()
    }
}

impl Deref for Batch {
    type Target = [Delivery];

    fn deref(&self) -> &[Delivery] {
        &self.deliveries
    }
}

impl Delivery {
    /// A message as its room keeps it.
    pub fn new(room: Arc<str>, entry: HistoryEntry) -> Self {
        let HistoryEntry { number, prev, epoch, at, payload } = entry;
        let (offset, prev) = (epoch.offset(number), epoch.offset(prev));
        let place = MessageMeta { room, epoch: epoch.name.clone(), offset, prev, at };
        Self { place, payload, text: OnceLock::new(), meta: OnceLock::new() }
    }

    /// The payload as a JSON string; `None` if it is not UTF-8.
    pub fn text(&self) -> Option<&RawValue> {
        let encode = || to_raw_value(std::str::from_utf8(&self.payload).ok()?).ok();
        self.text.get_or_init(encode).as_deref()
    }

    /// [`MessageMeta`] as a JSON object.
    pub fn meta(&self) -> &RawValue {
        // It holds only strings and numbers: encoding cannot fail.
        self.meta.get_or_init(|| to_raw_value(&self.place).unwrap_or_default())
    }
}
