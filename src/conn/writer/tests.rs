//! Pushes from several tasks at once, over a real connection, and who gets what waits.

use std::{future::poll_fn, time::Duration};

use proptest::prelude::*;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::*;
use crate::metrics::Gauge;

const DEADLINE: Duration = Duration::from_secs(30);

/// A client of the tests, which nobody ends.
struct Client;

impl Peer for Client {
    fn waiting(&self) -> usize {
        0
    }

    fn end(&self, _: Close) {
        panic!("the limits of these tests are never exceeded");
    }
}

fn writer() -> (Arc<Writer>, Gauge, Arc<Client>) {
    let (total, client) = (Gauge::default(), Arc::new(Client));
    let owner: Weak<Client> = Arc::downgrade(&client);
    let backlog = Backlog::new(64 << 20, total.clone());
    (Arc::new(Writer::new(owner, backlog)), total, client)
}

/// A connection with small buffers: the server's end, and the client's.
async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small window");
    let addr = listener.local_addr().expect("an address");
    let (client, accepted) = tokio::join!(socket.connect(addr), listener.accept());
    (accepted.expect("accepted").0, client.expect("connected"))
}

/// Writes on whenever the writer asks for it, as the task of a connection does, until it is closed.
async fn serve(writer: Arc<Writer>) {
    poll_fn(|cx| {
        writer.register(cx.waker());
        match writer.poll_flush(cx) {
            Poll::Ready(Ok(())) if writer.is_closed() => Poll::Ready(()),
            Poll::Ready(Err(error)) => panic!("{error}"),
            _ => Poll::Pending,
        }
    })
    .await;
    writer.detach();
}

/// Frames are numbered lines here: the writer does not look into them.
fn line(pusher: usize, number: usize) -> Bytes {
    format!("{pusher} {number} {}\n", "x".repeat(number % 700)).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn frames_come_whole_and_in_the_order_of_each_pusher() {
    const PUSHERS: usize = 3;
    const COUNT: usize = 4000;
    let (writer, total, _client) = writer();
    let (server, mut client) = connection().await;
    writer.attach(server.into());
    let serving = tokio::spawn(serve(writer.clone()));
    let mut pushing = JoinSet::new();
    for pusher in 0..PUSHERS {
        let writer = writer.clone();
        pushing.spawn(async move {
            for number in 0..COUNT {
                // Far behind, a client would be disconnected.
                while writer.waiting() > 256 << 10 {
                    tokio::task::yield_now().await;
                }
                assert_eq!(writer.push(&line(pusher, number)), Ok(true));
                if number % 64 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    let closing = writer.clone();
    let pushed = tokio::spawn(async move {
        pushing.join_all().await;
        closing.close(Bytes::from_static(b"end\n"));
        assert_eq!(closing.push(&Bytes::from_static(b"too late\n")), Ok(false));
    });
    let mut text = String::new();
    timeout(DEADLINE, client.read_to_string(&mut text)).await.expect("in time").expect("text");
    pushed.await.expect("no panic");
    serving.await.expect("no panic");
    assert_eq!(text.lines().last(), Some("end"));
    for pusher in 0..PUSHERS {
        let own = text.lines().filter(|line| line.starts_with(&format!("{pusher} ")));
        let expected = (0..COUNT).map(|number| line(pusher, number));
        assert!(own.map(|line| format!("{line}\n")).eq(expected), "the lines of pusher {pusher}");
    }
    assert_eq!(text.lines().count(), PUSHERS * COUNT + 1);
    assert_eq!((total.get(), writer.is_empty()), (0, true));
}

#[tokio::test]
async fn once_there_is_a_socket_no_poll_gets_what_waits() {
    let (writer, _, _client) = writer();
    writer.push(&Bytes::from_static(b"first")).expect("it may wait");
    assert_eq!(writer.take(100), ["first"]);
    writer.push(&Bytes::from_static(b"second")).expect("it may wait");
    let (server, _open) = connection().await;
    writer.attach(server.into());
    assert!(writer.take(100).is_empty());
    assert!(!writer.is_empty());
    // Also when the end of the session is under way.
    writer.close(Bytes::from_static(b"last"));
    assert!(writer.take(100).is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_poll_is_stalled_after_its_time() {
    const SLOW_AFTER: Duration = Duration::from_secs(10);
    let is_stalled = |writer: &Writer| writer.is_stalled(Instant::now(), SLOW_AFTER);
    let (writer, _, _client) = writer();
    // A heartbeat has a time limit of its own.
    writer.push_heartbeat(&Bytes::from_static(b"2")).expect("it may wait");
    tokio::time::advance(2 * SLOW_AFTER).await;
    assert!(!is_stalled(&writer));
    writer.push(&Bytes::from_static(b"message")).expect("it may wait");
    tokio::time::advance(SLOW_AFTER / 2).await;
    assert!(!is_stalled(&writer));
    tokio::time::advance(SLOW_AFTER).await;
    assert!(is_stalled(&writer));
    writer.set_polled(true);
    assert!(!is_stalled(&writer));
    assert_eq!(writer.take(100), ["2", "message"]);
    // The last word, too.
    writer.set_polled(false);
    writer.close(Bytes::from_static(b"1"));
    tokio::time::advance(2 * SLOW_AFTER).await;
    assert!(is_stalled(&writer));
}

proptest! {
    #[test]
    fn what_is_written_is_removed_wherever_it_is_cut(
        sizes in prop::collection::vec(0usize..300, 0..80),
        steps in prop::collection::vec(1usize..5000, 1..80),
    ) {
        let mut queue = Queue::default();
        let mut expected: Vec<u8> = Vec::new();
        for (number, size) in sizes.into_iter().enumerate() {
            let frames = vec![number as u8; size];
            expected.extend(&frames);
            queue.waiting.push_back(frames.into());
        }
        let mut written: Vec<u8> = Vec::new();
        for step in steps {
            let (parts, count) = queue.next();
            let offered: Vec<u8> = parts[..count].concat();
            prop_assert!(offered.len() <= MAX_WRITE);
            let taken = offered.len().min(step);
            written.extend(&offered[..taken]);
            queue.advance(taken);
        }
        let rest: Vec<u8> = queue.waiting.iter().flatten().copied().collect();
        prop_assert_eq!([written, rest].concat(), expected);
    }
}
