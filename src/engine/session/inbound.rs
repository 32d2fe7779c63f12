//! What a client sends: packets in their order, from polls and from the WebSocket.

use std::sync::atomic::Ordering::Release;

use serde_json::Value as Json;
use tokio::time::Instant;

use super::Session;
use crate::{
    conn::{caller::Caller, rate::Rate},
    engine::{
        frame,
        packet::{self, Protocol, Received},
        payload::{Data, Kind, Packet},
        rate_limit::{RateLimit, RateVerdict},
    },
    metrics::Close,
};

/// An event from a client.
#[derive(Debug)]
pub struct ClientEvent {
    /// Name and arguments as a JSON array, as it came.
    pub text: String,
    /// The event is to be refused for this reason.
    pub refused: Option<Unacceptable>,
    /// The id under which an answer is expected.
    pub ack: Option<i64>,
}

impl ClientEvent {
    /// Reads the name and the arguments. Not before the event is accepted: this costs the most.
    ///
    /// # Errors
    /// What is wrong with them, in words for the client's developer.
    pub fn content(&self) -> Result<(String, Vec<Json>), String> {
        let args = serde_json::from_str::<Vec<Json>>(&self.text).map_err(|problem| {
            format!("the event is not a JSON array that can be read: {problem}")
        })?;
        let mut args = args.into_iter();
        match args.next() {
            Some(Json::String(name)) => Ok((name, args.collect())),
            _ => Err("an event's name must be a string".to_owned()),
        }
    }
}

/// Why an event is refused whatever its content is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unacceptable {
    /// The client has sent too many packets a second.
    TooFast,
    /// The event is too large to wait for its attachments. Its content is not kept.
    TooLarge {
        /// The most bytes of such an event.
        most: usize,
    },
}

/// Packets of one client that are handled before it is the turn of others: answering one may cost a
/// system call.
pub const PACKETS_PER_TURN: usize = 32;

/// What follows from a packet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// Nothing more.
    Handled,
    /// The session ends for this reason.
    End(Close, &'static str),
}

/// The state of what a client sends. Its lock keeps the packets of a session in order.
pub struct Inbound {
    rate: RateLimit,
    is_connected: bool,
    /// An event whose attachments have not all come.
    partial: Option<Box<PartialEvent>>,
}

struct PartialEvent {
    packet: Received,
    is_too_large: bool,
    attachments: usize,
}

/// The most bytes of an event that waits for its attachments. No event of ours has any, so this is
/// the beginning of one that will be refused.
const MAX_PARTIAL: usize = 4 << 10;

impl Inbound {
    pub fn new(rate: Rate) -> Self {
        Self { rate: RateLimit::new(rate, Instant::now()), is_connected: false, partial: None }
    }

    /// Whether attachments of an event have yet to come.
    pub fn has_partial(&self) -> bool {
        self.partial.is_some()
    }
}

impl PartialEvent {
    fn new(mut packet: Received, attachments: usize) -> Self {
        let mut is_too_large = false;
        if let Received::ClientEvent { text, .. } = &mut packet
            && text.len() > MAX_PARTIAL
        {
            is_too_large = true;
            *text = String::new();
        }
        Self { packet, is_too_large, attachments }
    }
}

impl Session {
    /// Handles packets of one POST or one read, in order, until one of them ends the session.
    pub(in crate::engine) fn receive(
        &self,
        packets: impl Iterator<Item = Packet>,
        caller: &Caller,
    ) -> Outcome {
        let mut inbound = self.inbound.lock();
        for packet in packets {
            match self.packet(&mut inbound, packet, caller) {
                Outcome::Handled => {}
                outcome => return outcome,
            }
        }
        Outcome::Handled
    }

    /// A WebSocket's control frame counts as a packet, too.
    pub(in crate::engine) fn count_frame(&self) -> Outcome {
        match self.inbound.lock().rate.packet(self.engine().settings.rate, Instant::now()) {
            RateVerdict::Excessive => TOO_FAST,
            _ => Outcome::Handled,
        }
    }

    /// In version 3 of the protocol, a client is in the main namespace without asking.
    pub(in crate::engine) fn enter_by_itself(&self) {
        if self.format.protocol == Protocol::V3 {
            self.connect(&mut self.inbound.lock(), None);
        }
    }

    fn packet(&self, inbound: &mut Inbound, packet: Packet, caller: &Caller) -> Outcome {
        let mut verdict = inbound.rate.packet(self.engine().settings.rate, Instant::now());
        // Sessions that replace each other share the rate of their connection and their address.
        if !caller.packet() {
            verdict = verdict.max(RateVerdict::TooFast);
        }
        if verdict == RateVerdict::Excessive {
            return TOO_FAST;
        }
        match (packet.kind, packet.data) {
            (Kind::Message, Data::Text(text)) => {
                self.message(inbound, &text, verdict == RateVerdict::TooFast)
            }
            (Kind::Message, Data::Binary(_)) => self.attachment(inbound, verdict),
            (Kind::Ping, Data::Text(text)) => {
                self.send(&frame::text(&[b"3", text.as_bytes()]));
                Outcome::Handled
            }
            (Kind::Close, _) => Outcome::End(Close::Client, ""),
            // An upgrade has an effect on the WebSocket of a probe alone, which reads its packets itself.
            (Kind::Pong | Kind::Noop | Kind::Upgrade, _) => Outcome::Handled,
            (Kind::Open | Kind::Ping, _) => {
                Outcome::End(Close::BadPacket, "a packet of this type is the server's")
            }
        }
    }

    fn message(&self, inbound: &mut Inbound, text: &str, is_too_fast: bool) -> Outcome {
        if inbound.partial.is_some() {
            return Outcome::End(Close::BadPacket, "an attachment is missing");
        }
        match packet::decode(text) {
            Ok((packet, 0)) => {
                self.handle(inbound, packet, is_too_fast.then_some(Unacceptable::TooFast))
            }
            Ok((packet, attachments)) => {
                inbound.partial = Some(Box::new(PartialEvent::new(packet, attachments)));
                Outcome::Handled
            }
            // With `socket.io-json-parser`, a client begins so.
            Err(_) if text.starts_with('{') && !self.has_entered() => self.unsupported_parser(),
            Err(reason) => Outcome::End(Close::BadPacket, reason),
        }
    }

    /// The client encodes its packets in another way.
    fn unsupported_parser(&self) -> Outcome {
        self.engine().metrics.refusals("unsupported").inc();
        Outcome::End(
            Close::BadPacket,
            "only Socket.IO's default parser is supported: leave out the client's option `parser`",
        )
    }

    /// Counts an attachment. No event takes one, so its bytes are dropped.
    fn attachment(&self, inbound: &mut Inbound, verdict: RateVerdict) -> Outcome {
        match inbound.partial.take() {
            // With `socket.io-msgpack-parser`, a client begins so.
            None if !self.has_entered() => self.unsupported_parser(),
            None => Outcome::End(Close::BadPacket, "an attachment without its packet"),
            Some(partial) if partial.attachments <= 1 => {
                let is_too_fast = verdict == RateVerdict::TooFast;
                let too_fast = is_too_fast.then_some(Unacceptable::TooFast);
                let too_large = partial.is_too_large.then_some(TOO_LARGE);
                self.handle(inbound, partial.packet, too_fast.or(too_large))
            }
            Some(mut partial) => {
                partial.attachments -= 1;
                inbound.partial = Some(partial);
                Outcome::Handled
            }
        }
    }

    fn handle(
        &self,
        inbound: &mut Inbound,
        packet: Received,
        refused: Option<Unacceptable>,
    ) -> Outcome {
        match packet {
            Received::Connect { namespace, .. } if refused.is_some() => {
                self.engine().metrics.refusals("too_fast").inc();
                self.send(&packet::connect_error(
                    &namespace,
                    "too many packets a second; slow down",
                ));
            }
            Received::Connect { namespace, auth } if namespace == "/" => {
                self.connect(inbound, auth.as_deref());
            }
            Received::Connect { namespace, .. } => {
                self.send(&packet::connect_error(&namespace, "Invalid namespace"));
            }
            Received::Disconnect => self.leave(inbound),
            Received::ClientEvent { text, ack } if inbound.is_connected => {
                if let Some(client) = self.client() {
                    client.event(ClientEvent { text, refused, ack });
                }
            }
            // A client that has just left may have sent events before it knew.
            Received::ClientEvent { .. } | Received::Ignored => {}
        }
        Outcome::Handled
    }

    fn connect(&self, inbound: &mut Inbound, auth: Option<&str>) {
        let Some(client) = self.client().filter(|_| !inbound.is_connected) else { return };
        match client.connect(auth) {
            Ok(()) => {
                inbound.is_connected = true;
                self.has_entered.store(true, Release);
                self.clock.connect_by.store(0, Release);
                self.send(&packet::connected(self.format.protocol, self.sid));
                client.connected();
            }
            Err(reason) => self.send(&packet::connect_error("/", &reason)),
        }
    }

    fn leave(&self, inbound: &mut Inbound) {
        if std::mem::take(&mut inbound.is_connected) {
            self.set_connect_timeout();
            if let Some(client) = self.client() {
                client.disconnected();
            }
        }
    }
}

const TOO_LARGE: Unacceptable = Unacceptable::TooLarge { most: MAX_PARTIAL };
const TOO_FAST: Outcome = Outcome::End(Close::TooFast, "too many packets a second");
