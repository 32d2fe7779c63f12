//! What may wait for one client, to the byte and to the batch.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

/// A stream that frames can be pushed to, and its peer, which takes so many bytes unasked.
async fn framed(taken: usize) -> (Stream, DuplexStream) {
    let (io, peer) = duplex(taken);
    let (open, total) = (Gauge::default(), Gauge::default());
    let streams = Streams::new(open, Backlog::new(usize::MAX >> 1, total), Arc::default());
    let entry = Entry::new(([127, 0, 0, 1], 1).into(), &streams);
    let mut stream = Stream::new(io, entry, Duration::from_secs(3600));
    stream.control().set_upgrading();
    stream.flush().await.expect("flushed");
    (stream, peer)
}

#[tokio::test]
async fn what_waits_for_who_is_behind_is_bounded_to_the_byte() {
    let (mut stream, mut peer) = framed(50_000).await;
    let control = stream.control().clone();
    let frames = |bytes: usize| Bytes::from(vec![0; bytes]);
    assert_eq!(control.push(&frames(50_000)), Ok(false));
    assert_eq!((control.share().waiting(), control.lags()), (0, false));
    // The first one may have any size.
    assert_eq!(control.push(&frames(MAX_WAITING - 1000)), Ok(false));
    assert_eq!(control.push(&frames(1000)), Ok(false));
    assert_eq!((control.share().waiting(), control.lags()), (MAX_WAITING, true));

    // All of it arrives, and then nothing waits.
    let mut arrived = vec![1; MAX_WAITING + 50_000];
    let (read, flushed) = tokio::join!(peer.read_exact(&mut arrived), stream.flush());
    assert!(read.is_ok() && flushed.is_ok() && arrived.iter().all(|&byte| byte == 0));
    assert_eq!((control.share().waiting(), control.lags()), (0, false));

    // One byte more is too much.
    assert_eq!(control.push(&frames(50_001)), Ok(false));
    assert_eq!(control.push(&frames(MAX_WAITING)), Err(Close::QueueFull));
    assert_eq!((control.share().waiting(), control.ended()), (0, Some(Close::QueueFull)));
}

#[tokio::test]
async fn what_waits_for_a_fence_is_bounded_to_the_batch() {
    let (stream, _peer) = framed(50_000).await;
    let control = stream.control();
    control.fence(false, || Ok::<_, ()>(())).expect("given");
    for _ in 0..MAX_BATCHES {
        assert_eq!(control.push(&Bytes::from_static(&[0])), Ok(false));
    }
    assert_eq!((control.share().waiting(), control.lags()), (MAX_BATCHES, false));
    assert_eq!(control.push(&Bytes::from_static(&[0])), Err(Close::QueueFull));
    assert_eq!((control.share().waiting(), control.ended()), (0, Some(Close::QueueFull)));
}
