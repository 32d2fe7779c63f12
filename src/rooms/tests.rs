use std::num::NonZero;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{history::ReplayRequest, join::Joined, *};

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
    let limits = HistoryLimits { room: HistoryBounds { count, age: HOUR }, bytes };
    (Rooms::new(limits, Lanes::new(LANES), metrics.clone()), metrics)
}

fn message(payload: &str) -> Message {
    Message::now(Bytes::from_static(b"room"), Bytes::copy_from_slice(payload.as_bytes()))
}

fn publish_to(rooms: &Rooms, name: &str, payload: &str) {
    if let Some((members, deliveries)) = rooms.place(name, vec![message(payload)]) {
        let deliveries = Batch::from(deliveries);
        for member in members.iter() {
            member.deliver(&deliveries);
        }
    }
}

fn gap(rooms: &Rooms) {
    let gap = Gap { from: 1, to: 2, reason: GapReason::SourceLost };
    for lane in 0..LANES.get() {
        for (room, members) in rooms.interrupt(lane, &gap) {
            members.iter().for_each(|member| member.gap(&room, &gap));
        }
    }
}

fn publish(rooms: &Rooms, payload: &str) {
    publish_to(rooms, "room", payload);
}

fn join(rooms: &Rooms, seen: &Arc<Seen>) -> (Member, Position) {
    let mut told = Joined::default();
    let wish = ReplayRequest::default();
    let (_, member) = rooms.join("room", None, seen.clone(), &wish, &mut told);
    (member, told.position.expect("`welcome` is called"))
}

/// The replay that a client receives if it joins now.
fn replay(rooms: &Rooms, name: &str, wish: ReplayRequest) -> (Vec<String>, Option<bool>) {
    let mut told = Joined::default();
    let (_, member) = rooms.join(name, None, Arc::new(Seen::default()), &wish, &mut told);
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
    assert_eq!(position.offset, 0);
    publish(&rooms, "a");
    let (other, position) = join(&rooms, &second);
    assert_eq!(position.offset, 1);
    publish(&rooms, "b");
    rooms.leave("room", member);
    publish(&rooms, "c");
    assert_eq!(*first.0.lock(), ["1 a", "2 b"]);
    assert_eq!(*second.0.lock(), ["2 b", "3 c"]);
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
    let ahead = Position { offset: 9, ..start.clone() };
    assert_eq!(replay(&rooms, "room", since(&ahead)), (all, Some(false)), "unknown offset");
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
fn the_history_of_the_least_recently_published_room_is_evicted_first() {
    let payload = "x".repeat(1000);
    // Seven payloads with what belongs to them do not fit.
    let (rooms, metrics) = rooms(100, 7500);
    let watching = Arc::new(Seen::default());
    rooms.join(
        "watched",
        None,
        watching.clone(),
        &ReplayRequest::default(),
        &mut Joined::default(),
    );
    for name in ["watched", "a", "b", "a"] {
        publish_to(&rooms, name, &payload);
    }
    for _ in 0..3 {
        publish_to(&rooms, "c", &payload);
    }
    assert!(metrics.history_bytes.get() <= 7500, "{}", metrics.history_bytes.get());
    assert_eq!(replay(&rooms, "watched", last(9)).0.len(), 0, "evicted, but the room stays");
    assert_eq!(replay(&rooms, "b", last(9)).0.len(), 0, "evicted next");
    assert_eq!(replay(&rooms, "a", last(9)).0.len(), 2);
    assert_eq!(replay(&rooms, "c", last(9)).0.len(), 3);
    publish_to(&rooms, "watched", "still here");
    assert_eq!(watching.0.lock().last().map(String::as_str), Some("2 still here"));
}

#[test]
fn a_room_whose_history_is_too_old_is_removed() {
    let (rooms, metrics) = rooms(100, 1 << 20);
    publish(&rooms, "a");
    rooms.expire(crate::clock::now());
    assert_eq!(metrics.rooms.get(), 1);
    rooms.expire(crate::clock::now() + HOUR + 1000);
    assert_eq!((metrics.rooms.get(), metrics.history_bytes.get()), (0, 0));
}

#[test]
fn a_leave_during_the_fan_out_does_not_affect_other_members() {
    let (rooms, _) = rooms(0, 0);
    let seen = Arc::new(Seen::default());
    let (gone, _) = join(&rooms, &Arc::new(Seen::default()));
    join(&rooms, &seen);
    let (members, deliveries) = rooms.place("room", vec![message("a")]).expect("members");
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

/// Publishes while its replay is delivered, and counts what it is told.
struct BusyClient<'a> {
    rooms: &'a Rooms,
    told: Joined,
    publishes: usize,
    forgets: bool,
    gaps: bool,
}

impl Joining for BusyClient<'_> {
    fn welcome(&mut self, answer: &JoinReply<'_>, known: Option<u64>) {
        self.told.welcome(answer, known);
    }

    fn replay(&mut self, messages: Vec<HistoryEntry>) {
        assert!(messages.len() <= MAX_COPIED);
        self.told.replay(messages);
        if std::mem::take(&mut self.forgets) {
            self.rooms.expire(crate::clock::now() + HOUR + 1000);
        }
        if std::mem::take(&mut self.gaps) {
            gap(self.rooms);
        }
        if self.publishes > 0 {
            self.publishes -= 1;
            publish(self.rooms, "meanwhile");
        }
    }

    fn gap(&mut self, gap: &Gap) {
        self.told.gap(gap);
    }
}

/// Joins a room of 1,000 messages while others are published.
fn join_busy(forgets: bool, gaps: bool) -> (Joined, Arc<Seen>) {
    let (rooms, _) = rooms(2000, 1 << 24);
    for number in 0..1000 {
        publish(&rooms, &number.to_string());
    }
    let mut busy =
        BusyClient { rooms: &rooms, told: Joined::default(), publishes: 3, forgets, gaps };
    let seen = Arc::new(Seen::default());
    rooms.join("room", None, seen.clone(), &last(1000), &mut busy);
    let told = busy.told;
    publish(&rooms, "live");
    (told, seen)
}

#[test]
fn a_replay_in_pieces_goes_on_to_what_is_published_meanwhile() {
    let (told, seen) = join_busy(false, false);
    let offsets: Vec<_> = told.messages.iter().map(|kept| kept.position.offset).collect();
    assert_eq!(offsets, (1..=1003).collect::<Vec<u64>>());
    assert_eq!((told.replayed, told.gaps.len()), (1000, 0));
    assert_eq!(*seen.0.lock(), ["1004 live"]);
}

#[test]
fn what_is_forgotten_during_a_replay_is_a_gap() {
    let (told, seen) = join_busy(true, false);
    let reasons: Vec<_> = told.gaps.iter().map(|gap| gap.reason).collect();
    assert_eq!(reasons, [GapReason::Forgotten]);
    assert_eq!(told.messages.len(), MAX_COPIED + 3);
    assert_eq!(*seen.0.lock(), ["1004 live"]);
}

#[test]
fn a_gap_during_a_replay_is_told_to_the_client_that_joins() {
    let (told, seen) = join_busy(false, true);
    let reasons: Vec<_> = told.gaps.iter().map(|gap| gap.reason).collect();
    assert_eq!(reasons, [GapReason::SourceLost]);
    assert_eq!(told.messages.len(), 1003);
    assert_eq!(*seen.0.lock(), ["4 live"]);
}

#[test]
fn rooms_without_history_do_not_take_the_place_of_others() {
    let (rooms, metrics) = rooms(100, 10_000);
    publish(&rooms, "kept");
    let kept = metrics.history_bytes.get();
    let wish = ReplayRequest::default();
    let members: Vec<_> = (0..1000)
        .map(|number| {
            let name = format!("empty{number}");
            let seen = Arc::new(Seen::default());
            rooms.join(&name, None, seen, &wish, &mut Joined::default())
        })
        .collect();
    assert_eq!(metrics.history_bytes.get(), kept);
    publish_to(&rooms, "another", "kept too");
    assert_eq!(replay(&rooms, "room", last(1)).0, ["kept"]);
    members.into_iter().for_each(|(name, member)| rooms.leave(&name, member));
    assert_eq!(metrics.rooms.get(), 2);
}
