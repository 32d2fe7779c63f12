use std::num::NonZero;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{history::ReplayRequest, test_client::TestClient, *};
use crate::position::Position;

#[derive(Default)]
struct Seen(Mutex<Vec<String>>);

impl Subscriber for Seen {
    fn deliver(&self, batch: &Batch) -> usize {
        let seen = batch.iter().map(|delivery| {
            let payload = String::from_utf8_lossy(&delivery.payload);
            format!("{} {payload}", delivery.place.offset)
        });
        self.0.lock().extend(seen);
        batch.len()
    }

    fn gap(&self, _: &str, gap: &Gap) {
        self.0.lock().push(format!("gap {:?}", gap.reason));
    }

    fn hello(&self) {}
}

const HOUR: u64 = 3_600_000;
const LANES: NonZero<usize> = NonZero::new(2).unwrap();

fn rooms(count: usize, bytes: usize) -> (Rooms, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::default());
    let limits = HistoryLimits { room: HistoryBounds { count, age: HOUR, last_age: HOUR }, bytes };
    (Rooms::without_queue(limits, Lanes::new(LANES), metrics.clone()), metrics)
}

fn place(rooms: &Rooms, name: &str, payload: &str) -> Option<(MemberSnapshot, Vec<Delivery>)> {
    let number = rooms.sequence().count();
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    let channel = Bytes::from_static(b"room");
    // No two in the same millisecond.
    let message = Message { number, at: clock::now() + number, channel, payload };
    rooms.place(name, &rooms.epoch(number), vec![message])
}

fn publish_to(rooms: &Rooms, name: &str, payload: &str) {
    if let Some((members, deliveries)) = place(rooms, name, payload) {
        let deliveries = Batch::from(deliveries);
        for member in members.iter() {
            member.deliver(&deliveries);
        }
    }
}

fn gap(rooms: &Rooms) {
    let gap = Gap { from: 1, to: 2, reason: GapReason::SourceLost };
    let number = rooms.sequence().begin_epoch();
    for lane in 0..LANES.get() {
        for (room, members) in rooms.interrupt(lane, &gap, number) {
            members.iter().for_each(|member| member.gap(&room, &gap));
        }
    }
}

fn publish(rooms: &Rooms, payload: &str) {
    publish_to(rooms, "room", payload);
}

fn join(rooms: &Rooms, seen: &Arc<Seen>) -> (Member, Position) {
    let request = ReplayRequest::default();
    let (member, told) = TestClient::join(rooms, "room", seen.clone(), &request);
    (member, told.position.expect("`welcome` is called"))
}

/// The replay that a client receives if it joins now.
fn replay(rooms: &Rooms, name: &str, request: ReplayRequest) -> (Vec<String>, Option<bool>) {
    let (member, told) = TestClient::join(rooms, name, Arc::new(Seen::default()), &request);
    rooms.leave(name, member);
    assert_eq!(told.replayed, told.messages.len());
    let text = |kept: &HistoryEntry| String::from_utf8_lossy(&kept.payload).into_owned();
    (told.messages.iter().map(text).collect(), told.recovered)
}

fn last(count: usize) -> ReplayRequest {
    ReplayRequest { last: Some(count), ..ReplayRequest::default() }
}

fn since(position: &Position) -> ReplayRequest {
    ReplayRequest { since: Some(position.clone()), ..ReplayRequest::default() }
}

#[test]
fn names_are_checked_for_length_and_control_characters() {
    for good in ["d", "device:01", "päth/ü", &"x".repeat(256)] {
        assert_eq!(Rooms::check_name(good), Ok(()), "{good}");
    }
    for bad in ["", "a\nb", "\u{7f}", "\u{85}", &"x".repeat(257), &"ü".repeat(129)] {
        assert!(Rooms::check_name(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_member_receives_the_messages_between_join_and_leave() {
    let (rooms, metrics) = rooms(0, 0);
    let (first, second) = (Arc::new(Seen::default()), Arc::new(Seen::default()));
    publish(&rooms, "no members yet");
    let (member, position) = join(&rooms, &first);
    assert_eq!(position.offset, 1);
    publish(&rooms, "a");
    publish_to(&rooms, "another", "counts too");
    let (other, position) = join(&rooms, &second);
    assert_eq!(position.offset, 3);
    publish(&rooms, "b");
    rooms.leave("room", member);
    publish(&rooms, "c");
    assert_eq!(*first.0.lock(), ["2 a", "4 b"]);
    assert_eq!(*second.0.lock(), ["4 b", "5 c"]);
    assert_eq!((metrics.rooms.get(), metrics.members.get()), (1, 1));
    rooms.leave("room", other);
    assert_eq!((metrics.rooms.get(), metrics.members.get()), (0, 0));
    assert_eq!(metrics.history_bytes.get(), 0);
}

#[test]
fn the_replay_follows_the_request() {
    let (rooms, _) = rooms(3, 1 << 20);
    let (_, start) = join(&rooms, &Arc::new(Seen::default()));
    for payload in ["a", "b", "c"] {
        publish(&rooms, payload);
    }
    assert_eq!(replay(&rooms, "room", last(2)), (vec!["b".into(), "c".into()], None));
    assert_eq!(replay(&rooms, "room", since(&start)).1, Some(true));
    publish(&rooms, "d");
    let seen = Position { offset: 2, ..start.clone() };
    assert_eq!(replay(&rooms, "room", since(&seen)), (vec!["c".into(), "d".into()], Some(true)));
    let all = vec!["b".to_owned(), "c".into(), "d".into()];
    assert_eq!(replay(&rooms, "room", since(&start)), (all.clone(), Some(false)), "offset 1 gone");
    let one = ReplayRequest { last: Some(1), ..since(&start) };
    assert_eq!(replay(&rooms, "room", one).0, all, "all that is kept after the position");
    let ahead = Position { offset: 9, ..start.clone() };
    assert_eq!(replay(&rooms, "room", since(&ahead)), (all, Some(false)), "unknown offset");
    let one = ReplayRequest { last: Some(1), ..since(&ahead) };
    assert_eq!(replay(&rooms, "room", one).0, ["d"]);
    let nothing = ReplayRequest { appends: true, ..since(&ahead) };
    assert_eq!(replay(&rooms, "room", nothing), (vec![], Some(false)));
    let now = Position { offset: 4, ..start };
    assert_eq!(replay(&rooms, "room", since(&now)), (vec![], Some(true)));
}

#[test]
fn members_receive_a_gap_and_a_new_epoch_starts() {
    let (rooms, _) = rooms(10, 1 << 20);
    let seen = Arc::new(Seen::default());
    let (_, before) = join(&rooms, &seen);
    publish(&rooms, "a");
    gap(&rooms);
    publish(&rooms, "b");
    assert_eq!(*seen.0.lock(), ["1 a", "gap SourceLost", "1 b"]);
    assert_eq!(replay(&rooms, "room", since(&before)), (vec!["a".into(), "b".into()], Some(false)));
    assert_ne!(join(&rooms, &seen).1.epoch, before.epoch);
}

#[test]
fn the_oldest_messages_are_evicted_first_and_the_latest_of_each_room_last() {
    let payload = "x".repeat(1000);
    let six = ["watched", "a", "b", "a", "c", "c"];
    let (unbounded, metrics) = rooms(100, 1 << 20);
    six.iter().for_each(|name| publish_to(&unbounded, name, &payload));
    let limit = metrics.history_bytes.get() + 500;
    let (rooms, metrics) = rooms(100, limit as usize);
    let watching = Arc::new(Seen::default());
    let request = ReplayRequest::default();
    TestClient::join(&rooms, "watched", watching.clone(), &request);
    let kept = || ["watched", "a", "b", "c"].map(|name| replay(&rooms, name, last(9)).0.len());
    six.iter().for_each(|name| publish_to(&rooms, name, &payload));
    assert_eq!(kept(), [1, 2, 1, 2]);
    publish_to(&rooms, "c", &payload);
    assert_eq!(kept(), [1, 1, 1, 3], "the oldest one that is not the latest of its room");
    for _ in 0..3 {
        publish_to(&rooms, "c", &payload);
    }
    assert_eq!(kept(), [1, 1, 1, 3]);
    for number in 0..4 {
        publish_to(&rooms, &number.to_string(), &payload);
    }
    let [first, third, second, fourth] = kept();
    assert!((first, fourth) == (0, 1) && second <= third, "silent for longest goes first");
    assert!(metrics.history_bytes.get() <= limit, "{}", metrics.history_bytes.get());
    publish_to(&rooms, "watched", "still here");
    assert_eq!(watching.0.lock().last().map(String::as_str), Some("15 still here"));
}

#[test]
fn the_latest_message_of_a_room_is_kept_for_longer() {
    let metrics = Arc::new(Metrics::default());
    let room = HistoryBounds { count: 100, age: HOUR, last_age: 3 * HOUR };
    let limits = HistoryLimits { room, bytes: 1 << 20 };
    let rooms = Rooms::without_queue(limits, Lanes::new(LANES), metrics.clone());
    for payload in ["a", "b"] {
        publish(&rooms, payload);
    }
    while rooms.expire_next(clock::now() + HOUR + 10_000) {}
    assert_eq!(replay(&rooms, "room", last(9)).0, ["b"]);
    publish(&rooms, "c");
    assert_eq!(replay(&rooms, "room", last(9)).0, ["c"], "it is not the latest one any more");
    while rooms.expire_next(clock::now() + 3 * HOUR + 10_000) {}
    assert_eq!((metrics.rooms.get(), metrics.history_bytes.get()), (0, 0));
}

#[test]
fn a_room_whose_history_is_too_old_is_removed() {
    let (rooms, metrics) = rooms(100, 1 << 20);
    publish(&rooms, "a");
    while rooms.expire_next(clock::now()) {}
    assert_eq!(metrics.rooms.get(), 1);
    while rooms.expire_next(clock::now() + HOUR + 10_000) {}
    assert_eq!((metrics.rooms.get(), metrics.history_bytes.get()), (0, 0));
}

#[test]
fn a_leave_during_the_fan_out_does_not_affect_other_members() {
    let (rooms, _) = rooms(0, 0);
    let seen = Arc::new(Seen::default());
    let (gone, _) = join(&rooms, &Arc::new(Seen::default()));
    join(&rooms, &seen);
    let (members, deliveries) = place(&rooms, "room", "a").expect("members");
    let deliveries = Batch::from(deliveries);
    rooms.leave("room", gone);
    assert_eq!(members.iter().map(|member| member.deliver(&deliveries)).sum::<usize>(), 2);
    assert_eq!(seen.0.lock().len(), 1);
}

#[test]
fn channels_are_listed_with_their_latest_message() {
    let (rooms, _) = rooms(10, 1 << 20);
    for (name, payload) in [("device01", "a"), ("device02", "bb"), ("other", "c")] {
        publish_to(&rooms, name, payload);
    }
    let (channels, more) = rooms.list(|room| room.starts_with("device"), Instant::now());
    let mut told: Vec<_> =
        channels.iter().map(|channel| (&*channel.room, channel.last.as_deref())).collect();
    // They may have been published in the same millisecond.
    told.sort_unstable();
    assert_eq!((told, more), (vec![("device01", Some("a")), ("device02", Some("bb"))], false));
    assert!(channels.iter().all(|channel| channel.rate > 0.0 && channel.at > 0));
}

#[tokio::test(start_paused = true)]
async fn the_list_of_channels_is_never_older_than_its_request() {
    let (rooms, _) = rooms(10, 1 << 20);
    let rooms = Arc::new(rooms);
    let count = async || rooms.clone().channels(|_| true).await.0.len();
    publish_to(&rooms, "a", "1");
    assert_eq!(count().await, 1);
    publish_to(&rooms, "b", "1");
    assert_eq!(tokio::join!(count(), count()), (2, 2));
}

/// A room of 1,000 messages, and a client that has read the first piece of them.
fn begin_long_replay(subscriber: Arc<dyn Subscriber>) -> (Rooms, Joined, TestClient) {
    let (rooms, _) = rooms(2000, 1 << 24);
    for number in 0..1000 {
        publish(&rooms, &number.to_string());
    }
    let (mut joined, mut client) = TestClient::begin(&rooms, "room", subscriber, &last(1000));
    assert!(client.read(&mut joined));
    assert_eq!((client.replayed, client.messages.len()), (1000, MAX_COPIED));
    (rooms, joined, client)
}

#[test]
fn a_replay_goes_on_to_what_is_published_meanwhile() {
    let seen = Arc::new(Seen::default());
    let (rooms, mut joined, mut client) = begin_long_replay(seen.clone());
    while client.read(&mut joined) && client.messages.len() < 1003 {
        publish(&rooms, "meanwhile");
    }
    assert!(seen.0.lock().is_empty(), "it is not live");
    while client.read(&mut joined) {}
    publish(&rooms, "live");
    let offsets: Vec<_> = client.messages.iter().map(|kept| kept.number).collect();
    assert_eq!(offsets, (1..=1003).collect::<Vec<u64>>());
    assert!(client.gaps.is_empty());
    assert_eq!(*seen.0.lock(), ["1004 live"]);
}

#[test]
fn what_is_forgotten_under_the_cursor_is_a_gap() {
    let (rooms, mut joined, mut client) = begin_long_replay(Arc::new(Seen::default()));
    while rooms.expire_next(clock::now() + HOUR + 10_000) {}
    publish(&rooms, "meanwhile");
    while client.read(&mut joined) {}
    let reasons: Vec<_> = client.gaps.iter().map(|gap| gap.reason).collect();
    assert_eq!(reasons, [GapReason::Forgotten]);
    let numbers: Vec<_> = client.messages[MAX_COPIED..].iter().map(|kept| kept.number).collect();
    assert_eq!(numbers, [1001], "the latest one of the others went when another one came");
    assert_eq!(client.omitted as usize, 1000 - MAX_COPIED);
}

#[test]
fn a_gap_during_a_replay_comes_in_its_place() {
    let seen = Arc::new(Seen::default());
    let (rooms, mut joined, mut client) = begin_long_replay(seen.clone());
    gap(&rooms);
    publish(&rooms, "behind it");
    while client.read(&mut joined) && client.gaps.is_empty() {}
    assert_eq!((client.gaps[0].reason, client.messages.len()), (GapReason::SourceLost, 1000));
    while client.read(&mut joined) {}
    assert_eq!((client.gaps.len(), client.messages.len()), (1, 1001));
    publish(&rooms, "live");
    assert_eq!(*seen.0.lock(), ["2 live"]);
}

/// A subscriber to which the newest message suffices.
struct Hasty(Arc<Seen>);

impl Subscriber for Hasty {
    fn deliver(&self, batch: &Batch) -> usize {
        self.0.deliver(batch)
    }

    fn gap(&self, room: &str, gap: &Gap) {
        self.0.gap(room, gap);
    }

    fn hello(&self) {}

    fn is_conflated(&self) -> bool {
        true
    }
}

#[test]
fn a_conflated_member_gets_the_newest_of_what_is_published_during_its_replay() {
    let seen = Arc::new(Seen::default());
    let (rooms, mut joined, mut client) = begin_long_replay(Arc::new(Hasty(seen.clone())));
    (0..9).for_each(|number| publish(&rooms, &format!("meanwhile {number}")));
    while client.read(&mut joined) {}
    publish(&rooms, "live");
    assert_eq!((client.messages.len(), client.gaps.len()), (1000, 0));
    assert_eq!(*seen.0.lock(), ["1009 meanwhile 8", "1010 live"]);
}

#[test]
fn another_join_continues_a_replay_unless_it_requests_one() {
    let (rooms, joined, mut client) = begin_long_replay(Arc::new(Seen::default()));
    let seen = Arc::new(Seen::default());
    let join = |joined: Joined, request: &ReplayRequest| {
        let again = Some((joined.member, joined.replay));
        rooms.join("room", again, seen.clone(), request, |_, _| {})
    };
    let mut joined = join(joined, &ReplayRequest::default());
    publish(&rooms, "meanwhile");
    assert!(client.read(&mut joined) && seen.0.lock().is_empty());
    let mut joined = join(joined, &last(1));
    client.messages.clear();
    while client.read(&mut joined) {}
    publish(&rooms, "live");
    let numbers: Vec<_> = client.messages.iter().map(|kept| kept.number).collect();
    assert_eq!((numbers, &seen.0.lock()[..]), (vec![1001], &["1002 live".to_owned()][..]));
    assert_eq!(rooms.members("room").len(), 1);
}

#[test]
fn rooms_without_history_do_not_take_the_place_of_others() {
    let (rooms, metrics) = rooms(100, 10_000);
    publish(&rooms, "kept");
    let kept = metrics.history_bytes.get();
    let request = ReplayRequest::default();
    let members: Vec<_> = (0..1000)
        .map(|number| {
            let name = format!("empty{number}");
            let seen = Arc::new(Seen::default());
            (TestClient::join(&rooms, &name, seen, &request).0, name)
        })
        .collect();
    assert_eq!(metrics.history_bytes.get(), kept);
    publish_to(&rooms, "another", "kept too");
    assert_eq!(replay(&rooms, "room", last(1)).0, ["kept"]);
    members.into_iter().for_each(|(member, name)| rooms.leave(&name, member));
    assert_eq!(metrics.rooms.get(), 2);
}

#[test]
fn a_room_without_a_message_is_recovered_and_so_is_one_that_was_left() {
    let (rooms, _) = rooms(10, 1 << 20);
    let (member, start) = join(&rooms, &Arc::default());
    rooms.leave("room", member);
    publish_to(&rooms, "another", "a");
    assert_eq!(replay(&rooms, "room", since(&start)), (vec![], Some(true)));
    publish(&rooms, "b");
    assert_eq!(replay(&rooms, "room", since(&start)), (vec!["b".into()], Some(true)));
}

#[test]
fn a_room_that_was_forgotten_is_recovered_from_its_latest_message_on() {
    let (rooms, _) = rooms(10, 1 << 20);
    let (member, start) = join(&rooms, &Arc::default());
    publish(&rooms, "a");
    let (other, latest) = join(&rooms, &Arc::default());
    [member, other].into_iter().for_each(|member| rooms.leave("room", member));
    while rooms.expire_next(clock::now() + HOUR + 10_000) {}
    assert_eq!(rooms.metrics.rooms.get(), 0);
    assert_eq!(replay(&rooms, "room", since(&start)), (vec![], Some(false)));
    assert_eq!(replay(&rooms, "room", since(&latest)), (vec![], Some(true)));
}

#[test]
fn without_history_a_position_is_recovered_until_the_next_message() {
    let (rooms, _) = rooms(0, 0);
    let (_, start) = join(&rooms, &Arc::default());
    publish_to(&rooms, "another", "a");
    assert_eq!(replay(&rooms, "room", since(&start)).1, Some(true));
    publish(&rooms, "b");
    assert_eq!(replay(&rooms, "room", since(&start)).1, Some(false));
}

#[test]
fn a_dropped_message_is_missing_in_its_room_alone() {
    let (rooms, _) = rooms(10, 1 << 20);
    let (_, start) = join(&rooms, &Arc::default());
    publish(&rooms, "a");
    publish_to(&rooms, "another", "b");
    let (number, gap) =
        (rooms.sequence().count(), Gap { from: 5, to: 9, reason: GapReason::TooLarge });
    assert_eq!(rooms.interrupt_one("room", &gap, number).len(), 1);
    rooms.interrupt_one("nobody's", &gap, number);
    publish(&rooms, "c");
    let (_, told) = TestClient::join(&rooms, "room", Arc::new(Seen::default()), &since(&start));
    let missing = told.missing.expect("what is missing");
    assert_eq!((told.recovered, missing.to, missing.reason), (Some(false), 9, gap.reason));
    let prevs: Vec<_> = told.messages.iter().map(|kept| (kept.number, kept.prev)).collect();
    assert_eq!(prevs, [(1, 0), (4, 3)], "the second one follows the dropped one");
    assert_eq!(told.position.map(|at| at.epoch), Some(start.epoch.clone()), "no new epoch");
    assert_eq!(replay(&rooms, "another", since(&start)).1, Some(true));
    assert_eq!(replay(&rooms, "nobody's", since(&start)).1, Some(false));
}
