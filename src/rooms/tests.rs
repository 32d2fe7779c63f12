use super::*;

#[derive(Default)]
struct Seen(Mutex<Vec<String>>);

impl Subscriber for Seen {
    fn deliver(&self, batch: &Batch) -> usize {
        let seen = batch.iter().map(|delivery| {
            let payload = String::from_utf8_lossy(&delivery.payload);
            format!("{} {payload}", delivery.place.offset)
        });
        lock(&self.0).extend(seen);
        batch.len()
    }

    fn gap(&self, _: &str, gap: &Gap) {
        lock(&self.0).push(format!("gap {:?}", gap.reason));
    }

    fn hello(&self) {}
}

const HOUR: u64 = 3_600_000;

fn rooms(count: usize, bytes: usize) -> (Rooms, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::default());
    let limits = Limits { room: Bounds { count, age: HOUR }, bytes };
    (Rooms::new(limits, metrics.clone()), metrics)
}

fn message(payload: &str) -> Message {
    Message::now(Bytes::from_static(b"room"), Bytes::copy_from_slice(payload.as_bytes()))
}

fn publish_to(rooms: &Rooms, name: &str, payload: &str) {
    if let Some((members, deliveries)) = rooms.place(name, vec![message(payload)]) {
        let deliveries = Batch::from(deliveries);
        for member in members.values() {
            member.deliver(&deliveries);
        }
    }
}

fn publish(rooms: &Rooms, payload: &str) {
    publish_to(rooms, "room", payload);
}

fn join(rooms: &Rooms, seen: &Arc<Seen>) -> (Member, Position) {
    let mut at = None;
    let member = rooms.join("room", None, seen.clone(), &ReplayRequest::default(), |welcome, _| {
        at = Some(welcome.position.clone());
    });
    (member, at.expect("`welcome` is called"))
}

/// The replay that a client receives if it joins now.
fn replay(rooms: &Rooms, name: &str, wish: ReplayRequest) -> (Vec<String>, Option<bool>) {
    let mut got = None;
    let member = rooms.join(name, None, Arc::new(Seen::default()), &wish, |welcome, messages| {
        got = Some((messages, welcome.recovered));
    });
    rooms.leave(name, member);
    let (messages, recovered) = got.expect("`welcome` is called");
    let text = |kept: &HistoryEntry| String::from_utf8_lossy(&kept.payload).into_owned();
    (messages.iter().map(text).collect(), recovered)
}

fn last(count: usize) -> ReplayRequest {
    ReplayRequest { last: Some(count), since: None }
}

fn since(position: &Position) -> ReplayRequest {
    ReplayRequest { last: None, since: Some(position.clone()) }
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
    assert_eq!(*lock(&first.0), ["1 a", "2 b"]);
    assert_eq!(*lock(&second.0), ["2 b", "3 c"]);
    assert_eq!((metrics.rooms.get(), metrics.members.get()), (1, 1));
    rooms.leave("room", other);
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
    rooms.gap(&Gap { from: 1, to: 2, reason: crate::message::GapReason::SourceLost }, |_| true);
    publish(&rooms, "b");
    assert_eq!(*lock(&seen.0), ["1 a", "gap SourceLost", "1 b"]);
    assert_eq!(replay(&rooms, "room", since(&before)), (vec!["a".into(), "b".into()], Some(false)));
    assert_ne!(join(&rooms, &seen).1.epoch, before.epoch);
}

#[test]
fn the_history_of_the_least_recently_published_room_is_evicted_first() {
    let payload = "x".repeat(1000);
    let (rooms, metrics) = rooms(100, 6500);
    let watching = Arc::new(Seen::default());
    rooms.join("watched", None, watching.clone(), &ReplayRequest::default(), |_, _| ());
    for name in ["watched", "a", "b", "a"] {
        publish_to(&rooms, name, &payload);
    }
    for _ in 0..3 {
        publish_to(&rooms, "c", &payload);
    }
    assert!(metrics.history_bytes.get() <= 6500, "{}", metrics.history_bytes.get());
    assert_eq!(replay(&rooms, "watched", last(9)).0.len(), 0, "evicted, but the room stays");
    assert_eq!(replay(&rooms, "b", last(9)).0.len(), 0, "evicted next");
    assert_eq!(replay(&rooms, "a", last(9)).0.len(), 2);
    assert_eq!(replay(&rooms, "c", last(9)).0.len(), 3);
    publish_to(&rooms, "watched", "still here");
    assert_eq!(lock(&watching.0).last().map(String::as_str), Some("2 still here"));
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
    assert_eq!(members.values().map(|member| member.deliver(&deliveries)).sum::<usize>(), 2);
    assert_eq!(lock(&seen.0).len(), 1);
}

#[test]
fn channels_are_listed_with_their_latest_message() {
    let (rooms, _) = rooms(10, 1 << 20);
    for (name, payload) in [("device01", "a"), ("device02", "bb"), ("other", "c")] {
        publish_to(&rooms, name, payload);
    }
    let (channels, more) = rooms.channels(|room| room.starts_with("device"), crate::clock::now());
    let told: Vec<_> = channels.iter().map(|channel| (&*channel.room, channel.size)).collect();
    assert_eq!((told, more), (vec![("device02", Some(2)), ("device01", Some(1))], false));
    assert_eq!(channels[0].last.as_deref(), Some("bb"));
    assert!(channels[0].rate > 0.0 && channels[0].at > 0);
}
