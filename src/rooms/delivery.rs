//! A message at its place in a room, encoded at most once however many members take it.

use std::{
    ops::Deref,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::{message::Message, rooms::history::HistoryEntry};

/// Ways in which sockets are sent the same messages: with their places or without, and by either
/// version of Engine.IO.
const FORMS: usize = 4;

/// Messages of a room that go to its members together.
pub struct Batch {
    deliveries: Vec<Delivery>,
    encoded: [OnceLock<Bytes>; FORMS],
}

/// What a room's members get.
#[derive(Clone)]
pub struct Delivery {
    /// Where the message stands.
    pub place: MessageMeta,
    /// The publisher's bytes.
    pub payload: Bytes,
    text: OnceLock<Option<Box<RawValue>>>,
    meta: OnceLock<Box<RawValue>>,
}

/// Where a message stands; this is the second argument of `message` for those who asked for it.
#[derive(Clone, Debug, Serialize)]
pub struct MessageMeta {
    /// The room, named like the message's channel.
    pub room: Arc<str>,
    /// The unbroken run of offsets that the next line belongs to.
    pub epoch: Arc<str>,
    /// Counts a room's messages from 1 within an epoch.
    pub offset: u64,
    /// When the message arrived, in ms since the Unix epoch by the server's clock.
    pub at: u64,
}

impl Batch {
    /// The same bytes for all who take the messages in one form, made when the first one does.
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
    /// A message at the next place of its room.
    pub fn new(room: Arc<str>, epoch: Arc<str>, offset: u64, message: Message) -> Self {
        let place = MessageMeta { room, epoch, offset, at: message.at };
        Self { place, payload: message.payload, text: OnceLock::new(), meta: OnceLock::new() }
    }

    /// A message that is sent again, out of its room's history.
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

    /// The place as a JSON object.
    pub fn meta(&self) -> &RawValue {
        // Strings and numbers alone: encoding cannot fail.
        self.meta.get_or_init(|| to_raw_value(&self.place).unwrap_or_default())
    }
}
