//! What may wait for one client, to the byte and to the batch, and for how long.

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    time::{advance, timeout},
};

use super::*;

const SLOW_AFTER: Duration = Duration::from_secs(10);

/// A stream that frames can be pushed to, and its peer, which takes so many bytes unasked.
async fn framed(taken: usize) -> (Stream, DuplexStream) {
    let (mut stream, peer) = open(taken);
    stream.control().set_upgrading();
    stream.flush().await.expect("flushed");
    (stream, peer)
}

fn open(taken: usize) -> (Stream, DuplexStream) {
    let (io, peer) = duplex(taken);
    let (open, total) = (Gauge::default(), Gauge::default());
    let streams = Streams::new(open, Backlog::new(usize::MAX >> 1, total), Arc::default());
    let entry = Entry::new(([127, 0, 0, 1], 1).into(), &streams);
    (Stream::new(io, entry, SLOW_AFTER), peer)
}

#[tokio::test]
async fn what_waits_for_who_is_behind_is_bounded_to_the_byte() {
    let (stream, mut peer) = framed(50_000).await;
    let control = stream.control().clone();
    let frames = |bytes: usize| Bytes::from(vec![0; bytes]);
    assert_eq!(control.push(&frames(50_000)), Ok(false));
    assert_eq!((control.quota().waiting(), control.lags()), (0, false));
    // The first one may have any size.
    assert_eq!(control.push(&frames(MAX_WAITING - 1000)), Ok(false));
    assert_eq!(control.push(&frames(1000)), Ok(false));
    assert_eq!((control.quota().waiting(), control.lags()), (MAX_WAITING, true));

    // All of it arrives, and then nothing waits.
    let reading = read(stream);
    let mut arrived = vec![1; MAX_WAITING + 50_000];
    peer.read_exact(&mut arrived).await.expect("all of it");
    assert!(arrived.iter().all(|&byte| byte == 0));
    control.caught_up().await;
    assert_eq!((control.quota().waiting(), control.lags()), (0, false));

    // One byte more is too much.
    assert_eq!(control.push(&frames(50_001)), Ok(false));
    assert_eq!(control.push(&frames(MAX_WAITING)), Err(Close::QueueFull));
    assert_eq!((control.quota().waiting(), control.ended()), (0, Some(Close::QueueFull)));
    reading.await.expect("the end");
}

#[tokio::test]
async fn what_waits_for_a_fence_is_bounded_to_the_batch() {
    let (stream, _peer) = framed(50_000).await;
    let control = stream.control();
    control.fence(false, || Ok::<_, ()>(())).expect("given");
    for _ in 0..MAX_BATCHES {
        assert_eq!(control.push(&Bytes::from_static(&[0])), Ok(false));
    }
    assert_eq!((control.quota().waiting(), control.lags()), (MAX_BATCHES, false));
    assert_eq!(control.push(&Bytes::from_static(&[0])), Err(Close::QueueFull));
    assert_eq!((control.quota().waiting(), control.ended()), (0, Some(Close::QueueFull)));
}

/// Reads until the stream ends, as the engine does; that is what lets the rest of a push be written.
fn read(mut stream: Stream) -> tokio::task::JoinHandle<Stream> {
    tokio::spawn(async move {
        let end = stream.read_u8().await;
        assert_eq!(end.expect_err("nothing comes").kind(), io::ErrorKind::ConnectionAborted);
        stream
    })
}

#[tokio::test(start_paused = true)]
async fn who_takes_all_the_time_is_not_slow_and_who_stops_is() {
    let (stream, mut peer) = framed(1000).await;
    let control = stream.control().clone();
    let reading = read(stream);
    // Always behind, for many times as long as one may take nothing.
    assert_eq!(control.push(&vec![0; 5000].into()), Ok(false));
    for _ in 0..100 {
        assert_eq!(control.push(&vec![0; 1000].into()), Ok(false));
        advance(SLOW_AFTER / 10).await;
        peer.read_exact(&mut [0; 1000]).await.expect("sent");
        assert!(control.lags());
        assert_eq!(control.ended(), None);
    }
    let began = Instant::now();
    drop(reading.await.expect("ended"));
    assert_eq!(control.ended(), Some(Close::Slow));
    assert!(began.elapsed() <= SLOW_AFTER + SLOW_AFTER / 10, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_takes_all_the_time_may_have_far_to_go() {
    let (stream, mut peer) = framed(1000).await;
    let control = stream.control().clone();
    let reading = read(stream);
    for _ in 0..MAX_WAITING / 10_000 {
        assert_eq!(control.push(&vec![0; 10_000].into()), Ok(false));
    }
    for _ in 0..MAX_WAITING / 100_000 {
        advance(SLOW_AFTER / 10).await;
        peer.read_exact(&mut vec![0; 100_000]).await.expect("sent");
        assert_eq!(control.ended(), None);
    }
    reading.abort();
}

#[tokio::test(start_paused = true)]
async fn who_takes_all_of_it_in_time_is_not_behind_any_more() {
    let (stream, mut peer) = framed(1000).await;
    let control = stream.control().clone();
    let reading = read(stream);
    assert_eq!(control.push(&vec![0; 5000].into()), Ok(false));
    advance(SLOW_AFTER - Duration::from_secs(1)).await;
    peer.read_exact(&mut [0; 5000]).await.expect("sent");
    timeout(SLOW_AFTER, control.caught_up()).await.expect("caught up");
    advance(SLOW_AFTER * 2).await;
    assert_eq!((control.quota().waiting(), control.ended()), (0, None));
    reading.abort();
}

/// Before each try to write, hyper reads.
#[tokio::test(start_paused = true)]
async fn who_takes_nothing_of_an_http_answer_is_slow_too() {
    let (mut stream, _peer) = open(1000);
    let control = stream.control().clone();
    let mut buffer = [0; 10];
    let end = poll_fn(|cx| {
        let read = Pin::new(&mut stream).poll_read(cx, &mut ReadBuf::new(&mut buffer));
        if read.is_pending() {
            let mut write = || Pin::new(&mut stream).poll_write(cx, &[0; 1000]).is_ready();
            while control.ended().is_none() && write() {}
        }
        read
    });
    assert!(timeout(SLOW_AFTER * 2, end).await.expect("an end").is_err());
    assert_eq!(control.ended(), Some(Close::Slow));
}
