//! What a viewer has requested and received, and the assertions that all of it is in order.

use std::collections::VecDeque;

use rand::{RngExt, rngs::StdRng};
use serde_json::{Value, json};

use super::raw::Frame;

pub const ROOMS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ask {
    Join(usize),
    Leave(usize),
    /// Leaves the namespace and connects to it again.
    Reenter,
}

#[derive(Default)]
pub struct Ledger {
    asked: usize,
    /// Requests without an answer yet.
    asks: VecDeque<(usize, Ask, Value)>,
    rooms: [Room; ROOMS],
    /// Whether an attachment must come next.
    attachment: bool,
    pub messages: usize,
}

#[derive(Default)]
struct Room {
    /// The offset up to which the viewer has the room, if it is a member.
    has: Option<u64>,
    /// The viewer was told that messages may be missing before the next one.
    is_told: bool,
    /// The position of the last message.
    place: Value,
}

impl Ledger {
    pub fn join_all(&mut self) -> Vec<String> {
        (0..ROOMS).flat_map(|room| self.ask(Ask::Join(room))).collect()
    }

    pub fn any(random: &mut StdRng) -> Ask {
        let room = random.random_range(0..ROOMS);
        if random.random_ratio(1, 3) { Ask::Leave(room) } else { Ask::Join(room) }
    }

    /// The packets of a request, which is noted as open.
    pub fn ask(&mut self, ask: Ask) -> Vec<String> {
        if let Ask::Join(room) = ask
            && self.rooms[room].place.is_null()
            && self.asks.iter().any(|(_, asked, _)| *asked == ask)
        {
            // After a second join without `since`, messages that are under way may still follow the
            // answer.
            return vec![];
        }
        let id = self.asked;
        self.asked += 1;
        let mut since = Value::Null;
        let packets = match ask {
            Ask::Join(room) => {
                let place = &self.rooms[room].place;
                if !place.is_null() {
                    since = json!({"epoch": place["epoch"], "offset": place["offset"]});
                }
                let join = json!(["channel", name(room), {"meta": true, "since": since}]);
                vec![format!("42{id}{join}")]
            }
            Ask::Leave(room) => vec![format!("42{id}{}", json!(["leave", name(room)]))],
            Ask::Reenter => vec!["41".to_owned(), "40".to_owned()],
        };
        self.asks.push_back((id, ask, since));
        packets
    }

    /// Whether all requests are answered.
    pub fn is_answered(&self) -> bool {
        self.asks.is_empty()
    }

    /// Whether the viewer is a member of a room, so that messages will come.
    pub fn is_member(&self) -> bool {
        self.rooms.iter().any(|room| room.has.is_some())
    }

    /// Notes an attachment.
    pub fn attached(&mut self) {
        assert!(std::mem::take(&mut self.attachment), "an attachment without a message");
    }

    pub fn frame(&mut self, frame: &Frame) {
        if frame.kind() == 0x82 {
            assert_eq!(frame.payload()[0], 0xff);
            self.attached();
        } else {
            self.packet(frame.text());
        }
    }

    pub fn packet(&mut self, packet: &str) {
        assert!(!self.attachment, "{packet} instead of an attachment");
        if packet.starts_with("40{") {
            let (_, ask, _) = self.asks.pop_front().expect("asked for");
            assert_eq!(ask, Ask::Reenter);
            self.rooms.iter_mut().for_each(|room| room.has = None);
        } else if let Some(answer) = packet.strip_prefix("43") {
            let (id, ask, since) = self.asks.pop_front().expect("asked for");
            let answer = answer.strip_prefix(&id.to_string()).expect("answers are in order");
            let answer: Value = serde_json::from_str(answer).expect("JSON");
            assert_eq!(answer[0]["ok"], true, "{answer}");
            match ask {
                Ask::Join(room) => self.rooms[room].joined(&answer[0], &since),
                Ask::Leave(room) => self.rooms[room].has = None,
                Ask::Reenter => panic!("{packet} answers no request"),
            }
        } else if let Some(event) = packet.strip_prefix("42[") {
            self.message(&format!("[{event}"));
        } else if let Some(event) = packet.strip_prefix("451-") {
            self.message(event);
            self.attachment = true;
        } else {
            panic!("{packet}");
        }
    }

    fn message(&mut self, event: &str) {
        let event: Value = serde_json::from_str(event).expect("JSON");
        if event[0] == "gap" {
            assert!(self.rooms[number(&event[1])].is_told, "{event}");
            return;
        }
        assert_eq!(event[0], "message", "{event}");
        let place = &event[2];
        let room = &mut self.rooms[number(place)];
        let has = room.has.expect("a member gets messages, after the answer");
        let [prev, offset] = ["prev", "offset"].map(|name| place[name].as_u64().expect("a number"));
        assert!(offset > has, "doubled: {event}");
        assert!(prev <= has || room.is_told, "missing: {event}");
        (room.has, room.is_told) = (Some(offset), false);
        room.place = place.clone();
        self.messages += 1;
    }
}

impl Room {
    fn joined(&mut self, answer: &Value, since: &Value) {
        // On a busy machine a viewer may have missed more than the history keeps.
        self.is_told = answer["recovered"] == false;
        // A replay begins behind the requested position.
        let from = if answer["replayed"] == 0 { answer } else { since };
        self.has = from["offset"].as_u64();
        assert!(self.has.is_some(), "{answer}");
        self.place = json!({"epoch": answer["epoch"], "offset": from["offset"]});
    }
}

pub fn name(room: usize) -> String {
    format!("room{room}")
}

fn number(place: &Value) -> usize {
    let room = place["room"].as_str().expect("a room");
    room.trim_start_matches("room").parse().expect("a number")
}
