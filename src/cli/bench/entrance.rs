//! The handshakes of a viewer until it has joined its room: polling (with `--upgrade`), WebSocket,
//! Socket.IO CONNECT, join.

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::{
    answer::{self, Answer},
    frame,
    plan::Plan,
    target::Protocol,
};

/// Headers of the WebSocket handshake. The key is fixed and `sec-websocket-accept` is not checked:
/// that check protects from caches between client and server, and there are none here.
const HANDSHAKE: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                         sec-websocket-key: cm9vbWNhc3QgYmVuY2hlcw==\r\n\r\n";

/// What the worker thread has to do for a viewer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Nothing; wait for more bytes.
    Wait,
    /// Open a new connection for it: the upgrade needs one for the WebSocket.
    Reconnect,
    /// Count it as joined.
    Joined,
}

/// The answer or packet that the viewer expects next.
enum Stage {
    /// Polling: the Engine.IO OPEN packet with the session's id.
    PollOpen,
    /// Polling: the answer to the POST of the CONNECT, then a poll's answer with the server's
    /// CONNECT.
    PollWelcome { sid: String },
    /// The answer 101 to the WebSocket handshake; `sid` is the polling session to upgrade, if any.
    Handshake { sid: Option<String> },
    /// WebSocket: `3probe`, the answer to the upgrade's probe.
    Probing,
    /// WebSocket: the Engine.IO OPEN packet.
    Opening,
    /// WebSocket: the server's CONNECT.
    Entering,
    /// WebSocket: the ack of the join.
    Joining,
}

/// The state of a viewer that is connecting. It starts with [`begin`](Self::begin), handles answers
/// and packets, and ends with [`Step::Joined`]. Methods append the bytes to send to `out`.
pub struct Entrance {
    room: u32,
    stage: Stage,
    /// A PING arrived while polling; the PONG is sent after the upgrade.
    owes_pong: bool,
}

impl Entrance {
    /// Sends the first request.
    pub fn begin(plan: &Plan, room: u32, out: &mut Vec<u8>) -> Self {
        let stage = if plan.target.upgrade {
            poll(plan, "", None, out);
            Stage::PollOpen
        } else {
            handshake(plan, room, None, out)
        };
        Self { room, stage, owes_pong: false }
    }

    /// Sends the WebSocket handshake over a new connection, after [`Step::Reconnect`].
    pub fn reconnected(&mut self, plan: &Plan, out: &mut Vec<u8>) {
        if let Stage::PollWelcome { sid } = &self.stage {
            self.stage = handshake(plan, self.room, Some(sid.clone()), out);
        }
    }

    /// Whether the connection is a WebSocket already.
    pub fn speaks_frames(&self) -> bool {
        use Stage::{Handshake, PollOpen, PollWelcome};
        !matches!(self.stage, PollOpen | PollWelcome { .. } | Handshake { .. })
    }

    /// Handles an HTTP answer, as long as the connection is not a WebSocket.
    ///
    /// # Errors
    /// If its status is not the expected one, or it does not open an Engine.IO session.
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
                let sid = sid.context("the server opened no Engine.IO session: check the URL")?;
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

    /// Handles a packet that arrived over the WebSocket.
    ///
    /// # Errors
    /// If the server refuses the CONNECT or the join.
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
                ensure!(!answer.contains(r#""ok":false"#), "the server refused the join: {answer}");
                return Ok(Step::Joined);
            }
            _ if packet.starts_with(b"44") => {
                let reason = String::from_utf8_lossy(&packet[2..]);
                bail!("the server refused the connection to its namespace: {reason}")
            }
            _ => {}
        }
        Ok(Step::Wait)
    }
}

/// Sends a polling request: a POST with `body`, or else a GET. An empty `sid` opens a session.
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
