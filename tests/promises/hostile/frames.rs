//! Malformed WebSocket frames.

use tokio::{io::AsyncWriteExt, task::JoinSet};

use super::{Attack, frame, rest, websocket};

/// How many clients send each kind at once.
const TIMES: usize = 20;

/// Bytes that no client may send, each with a name.
fn kinds() -> Vec<(&'static str, Vec<u8>)> {
    let unmasked = [&[0x81, 2][..], b"40"].concat();
    let endless =
        [&frame(0x01, &[b'4'; 1000])[..], &frame(0x00, &[b'4'; 1000]).repeat(70)].concat();
    let of_length = |second: u8, length: &[u8]| [&[0x82, second][..], length, &[0; 64]].concat();
    vec![
        ("no mask", unmasked),
        ("a wrong mask", [&[0x81, 0x82, 9, 9, 9, 9][..], b"40"].concat()),
        ("first reserved bit", frame(0x81 | 0x40, b"40")),
        ("second reserved bit", frame(0x81 | 0x20, b"40")),
        ("third reserved bit", frame(0x81 | 0x10, b"40")),
        ("reserved opcode", frame(0x83, b"40")),
        ("reserved control opcode", frame(0x8b, b"")),
        ("a length of 64 bits", of_length(0xff, &u64::MAX.to_be_bytes())),
        ("a length of 4 EiB", of_length(0xff, &(1u64 << 62).to_be_bytes())),
        ("a length of 1 MiB", of_length(0xff, &(1u64 << 20).to_be_bytes())),
        ("one byte over the limit", frame(0x82, &vec![0; (64 << 10) + 1])),
        ("a ping of 126 bytes", frame(0x89, &[0; 126])),
        ("a close of 126 bytes", frame(0x88, &[0; 126])),
        ("a fragmented ping", frame(0x09, b"ping")),
        ("a close of one byte", frame(0x88, b"x")),
        ("a close with an invalid code", frame(0x88, &[0, 5])),
        ("a continuation without a start", frame(0x80, b"40")),
        ("a start within a message", [frame(0x01, b"4"), frame(0x01, b"0")].concat()),
        ("fragments without end", endless),
        ("no UTF-8", frame(0x81, b"4\xff\xfe")),
        ("a truncated character", frame(0x81, b"4\xf0\x9f\x98")),
        ("an unknown packet type", frame(0x81, b"x")),
        ("an empty packet", frame(0x81, b"")),
        ("an attachment without a packet", frame(0x82, b"")),
        ("attachments without number", frame(0x81, b"451000000000-[\"channel\"]")),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_frames_close_only_their_connection() {
    let attack = Attack::begin(&[]).await;
    let mut sending = JoinSet::new();
    for (name, bytes) in kinds().into_iter().cycle().take(TIMES * kinds().len()) {
        let site = attack.site.clone();
        sending.spawn(async move {
            let mut stream = websocket(&site).await;
            // The server may close the connection before all of it is sent.
            let _ = stream.write_all(&[frame(0x81, b"40"), bytes].concat()).await;
            drop(rest(&mut stream).await);
            name
        });
    }
    assert_eq!(sending.join_all().await.len(), TIMES * kinds().len());
    attack.end().await;
}
