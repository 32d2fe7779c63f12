//! Messages as the WebSocket frames that the engine would write: Socket.IO's packets `EVENT` and
//! `BINARY_EVENT`, whose attachment is a frame of its own.

use bytes::{BufMut, Bytes, BytesMut};
use socketioxide::ProtocolVersion;

use crate::rooms::delivery::{Batch, Delivery};

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
/// What Engine.IO 3 puts before an attachment.
const MESSAGE: &[u8] = &[4];

/// The frames of a batch, with the messages' places or without.
pub fn encoded(batch: &Batch, meta: bool, protocol: ProtocolVersion) -> Bytes {
    let old = protocol == ProtocolVersion::V4;
    let form = usize::from(meta) | usize::from(old) << 1;
    batch.encoded(form, |deliveries| encode(deliveries, meta, old)).clone()
}

fn encode(deliveries: &[Delivery], meta: bool, old: bool) -> Bytes {
    let mut frames = BytesMut::new();
    for delivery in deliveries {
        let (comma, place) = if meta { (",", delivery.meta().get()) } else { ("", "") };
        match delivery.text() {
            Some(text) => {
                let packet = [r#"42["message","#, text.get(), comma, place, "]"];
                frame(&mut frames, TEXT, &packet.map(str::as_bytes));
            }
            None => {
                let attached = r#"451-["message",{"_placeholder":true,"num":0}"#;
                frame(&mut frames, TEXT, &[attached, comma, place, "]"].map(str::as_bytes));
                let before = if old { MESSAGE } else { &[] };
                frame(&mut frames, BINARY, &[before, &delivery.payload]);
            }
        }
    }
    frames.freeze()
}

/// A server's frame: whole, and not masked.
fn frame(frames: &mut BytesMut, opcode: u8, parts: &[&[u8]]) {
    let length = parts.iter().map(|part| part.len()).sum();
    frames.reserve(10 + length);
    frames.put_u8(opcode);
    match length {
        0..=125 => frames.put_u8(length as u8),
        126..=0xffff => {
            frames.put_u8(126);
            frames.put_u16(length as u16);
        }
        _ => {
            frames.put_u8(127);
            frames.put_u64(length as u64);
        }
    }
    parts.iter().for_each(|part| frames.put_slice(part));
}
