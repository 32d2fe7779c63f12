//! Batches of messages as WebSocket frames: the event `message`.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};

use crate::{
    engine::packet::{self, Format, Protocol},
    rooms::delivery::{Batch, Delivery},
};

/// The frames of a batch, with the messages' metadata or without. All clients of one format share
/// them, except those that asked for base64, of which there are hardly any.
pub fn encoded(batch: &Batch, meta: bool, format: Format) -> Cow<'_, Bytes> {
    if format.is_base64 {
        return Cow::Owned(encode(batch, meta, format));
    }
    let form = usize::from(meta) | usize::from(format.protocol == Protocol::V3) << 1;
    Cow::Borrowed(batch.encoded(form, |deliveries| encode(deliveries, meta, format)))
}

/// The frames of some messages.
pub fn encode(deliveries: &[Delivery], meta: bool, format: Format) -> Bytes {
    let mut frames = BytesMut::new();
    for delivery in deliveries {
        let rest: &[&str] = if meta { &[delivery.meta().get()] } else { &[] };
        match delivery.text() {
            Some(text) => packet::put_message(&mut frames, text.get(), rest),
            None => packet::put_binary_message(&mut frames, format, &delivery.payload, rest),
        }
    }
    frames.freeze()
}
