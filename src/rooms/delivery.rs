//! A message with its room and offset, encoded at most once however many members receive it.

use std::{
    ops::Deref,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::{message::Message, rooms::history::HistoryEntry};

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
    /// The epoch that the offset belongs to. Offsets have no holes within an epoch.
    pub epoch: Arc<str>,
    /// Counts a room's messages from 1 within an epoch.
    pub offset: u64,
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
    /// A message with the offset that its room assigned to it.
    pub fn new(room: Arc<str>, epoch: Arc<str>, offset: u64, message: Message) -> Self {
        let place = MessageMeta { room, epoch, offset, at: message.at };
        Self { place, payload: message.payload, text: OnceLock::new(), meta: OnceLock::new() }
    }

    /// A message from its room's history, for a replay.
    pub fn again(room: Arc<str>, kept: HistoryEntry) -> Self {
        let HistoryEntry { position, at, payload } = kept;
        let message = Message { channel: Bytes::new(), payload, at };
        Self::new(room, position.epoch, position.offset, message)
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
