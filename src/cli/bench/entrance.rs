//! A viewer's way into its room: polling if asked for, the WebSocket, the namespace, the join.

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::{
    answer::{self, Answer},
    frame,
    plan::Plan,
    target::Protocol,
};

/// The rest of a WebSocket's handshake. How its key is answered is not checked: there is no cache
/// between us that the check would protect from.
const HANDSHAKE: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                         sec-websocket-key: cm9vbWNhc3QgYmVuY2hlcw==\r\n\r\n";

/// What the one who holds the viewer has to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// Give it a new connection: it goes on with a WebSocket.
    Reconnect,
    /// It is in its room now.
    Joined,
}

/// What the next thing that comes will be.
enum Stage {
    /// Polling: the answer will name the session.
    PollOpen,
    /// Polling: the answer says that our packet has arrived, or that we are in the namespace.
    PollWelcome { sid: String },
    /// The answer will be a WebSocket; `sid` is the session that it takes over.
    Handshake { sid: Option<String> },
    /// The WebSocket is being proven.
    Probing,
    /// Engine.IO will open.
    Opening,
    /// Socket.IO will let us into the namespace.
    Entering,
    /// The join will be acknowledged.
    Joining,
}

/// How far a viewer has come. What it has to say goes to the end of `out`.
pub struct Entrance {
    room: u32,
    stage: Stage,
    /// A heartbeat came while polling.
    owes_pong: bool,
}

impl Entrance {
    /// Asks for the first time.
    pub fn begin(plan: &Plan, room: u32, out: &mut Vec<u8>) -> Self {
        let stage = if plan.target.upgrade {
            poll(plan, "", None, out);
            Stage::PollOpen
        } else {
            handshake(plan, room, None, out)
        };
        Self { room, stage, owes_pong: false }
    }

    /// Goes on with a new connection, where the old one was for polling.
    pub fn reconnected(&mut self, plan: &Plan, out: &mut Vec<u8>) {
        if let Stage::PollWelcome { sid } = &self.stage {
            self.stage = handshake(plan, self.room, Some(sid.clone()), out);
        }
    }

    /// Whether there is a WebSocket already.
    pub fn speaks_frames(&self) -> bool {
        use Stage::{Handshake, PollOpen, PollWelcome};
        !matches!(self.stage, PollOpen | PollWelcome { .. } | Handshake { .. })
    }

    /// An answer by HTTP: until there is a WebSocket.
    pub fn answer(
        &mut self,
        answer: &Answer,
        body: &[u8],
        plan: &Plan,
        out: &mut Vec<u8>,
    ) -> anyhow::Result<Step> {
        let expected = if matches!(self.stage, Stage::Handshake { .. }) { 101 } else { 200 };
        ensure!(answer.status == expected, answer::explain(answer.status));
        match &self.stage {
            Stage::PollOpen => {
                let open = body.get(1..).and_then(|open| serde_json::from_slice(open).ok());
                let sid = open.and_then(|open: Value| Some(open["sid"].as_str()?.to_owned()));
                let sid = sid.context("the server opens no Engine.IO session: check the URL")?;
                poll(plan, &sid, Some("40"), out);
                self.stage = Stage::PollWelcome { sid };
            }
            Stage::PollWelcome { sid } => {
                self.owes_pong |= body.split(|&byte| byte == 0x1e).any(|packet| packet == b"2");
                if body.windows(3).any(|three| three == b"40{") {
                    return Ok(Step::Reconnect);
                }
                poll(plan, sid, None, out);
            }
            Stage::Handshake { sid: Some(_) } => {
                frame::put(frame::TEXT, b"2probe", out);
                self.stage = Stage::Probing;
            }
            _ if plan.target.protocol == Protocol::Websocket => return Ok(Step::Joined),
            _ => self.stage = Stage::Opening,
        }
        Ok(Step::Wait)
    }

    /// A packet over the WebSocket.
    pub fn packet(
        &mut self,
        packet: &[u8],
        plan: &Plan,
        out: &mut Vec<u8>,
    ) -> anyhow::Result<Step> {
        let join = || format!(r#"420["channel","{}"]"#, plan.room_name(self.room)).into_bytes();
        match self.stage {
            Stage::Opening if packet.starts_with(b"0{") => {
                frame::put(frame::TEXT, b"40", out);
                self.stage = Stage::Entering;
            }
            Stage::Entering if packet.starts_with(b"40") => {
                frame::put(frame::TEXT, &join(), out);
                self.stage = Stage::Joining;
            }
            Stage::Probing if packet == b"3probe" => {
                frame::put(frame::TEXT, b"5", out);
                if self.owes_pong {
                    frame::put(frame::TEXT, b"3", out);
                }
                frame::put(frame::TEXT, &join(), out);
                self.stage = Stage::Joining;
            }
            Stage::Joining if packet.starts_with(b"430[") => {
                let answer = String::from_utf8_lossy(&packet[3..]);
                ensure!(!answer.contains(r#""ok":false"#), "the server refuses: {answer}");
                return Ok(Step::Joined);
            }
            _ if packet.starts_with(b"44") => {
                let reason = String::from_utf8_lossy(&packet[2..]);
                bail!("the server lets nobody into the namespace: {reason}")
            }
            _ => {}
        }
        Ok(Step::Wait)
    }
}

/// A request of a session, or of none yet if `sid` is empty.
fn poll(plan: &Plan, sid: &str, body: Option<&str>, out: &mut Vec<u8>) {
    let sid = if sid.is_empty() { String::new() } else { format!("&sid={sid}") };
    let query = format!("?EIO=4&transport=polling{sid}");
    let (method, rest) = match body {
        None => ("GET", "\r\n".to_owned()),
        Some(body) => {
            let length = body.len();
            let head = format!("content-type: text/plain\r\ncontent-length: {length}\r\n\r\n");
            ("POST", head + body)
        }
    };
    out.extend_from_slice(plan.target.request(method, &query, "", &rest).as_bytes());
}

fn handshake(plan: &Plan, room: u32, sid: Option<String>, out: &mut Vec<u8>) -> Stage {
    let query = match (&sid, plan.target.protocol) {
        (_, Protocol::Websocket) => String::new(),
        (None, _) => "?EIO=4&transport=websocket".to_owned(),
        (Some(sid), _) => format!("?EIO=4&transport=websocket&sid={sid}"),
    };
    let request = plan.target.request("GET", &query, &plan.room_name(room), HANDSHAKE);
    out.extend_from_slice(request.as_bytes());
    Stage::Handshake { sid }
}
