//! The commands: answers the requests of one client in order.

mod about;

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::hub::{Kind, MAX_SUBSCRIPTIONS, SharedHub};
use super::outbox::Outbox;
use super::wire::{self, Reply, RespVersion};
use super::words::{self, check_name, lower};
use crate::glob;

/// Each command and its arity as Redis counts it: including the name, negative for "at least".
const COMMANDS: &[(&str, i64)] = &[
    ("auth", -2),
    ("client", -2),
    ("command", -1),
    ("echo", 2),
    ("hello", -1),
    ("info", -1),
    ("ping", -1),
    ("psubscribe", -2),
    ("publish", 3),
    ("pubsub", -2),
    ("punsubscribe", -1),
    ("quit", -1),
    ("reset", 1),
    ("select", 2),
    ("subscribe", -2),
    ("unsubscribe", -1),
];

/// The commands whose first argument is a subcommand.
const CONTAINERS: &[&str] = &["client", "command", "pubsub"];

/// A reply, or the text of an error.
type Answer = Result<Reply, String>;

/// A client's session. Dropping it removes the client and its subscriptions from the hub.
pub(super) struct Session {
    id: u64,
    hub: SharedHub,
    outbox: Arc<Outbox>,
    /// The count of the client's subscriptions. In RESP2, a client that has any may use only a few
    /// commands.
    subscriptions: usize,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.hub.lock().forget(self.id);
    }
}

impl Session {
    /// Adds a client that has just connected to the hub.
    pub(super) fn open(
        hub: SharedHub,
        outbox: Arc<Outbox>,
        peer: SocketAddr,
        local: SocketAddr,
    ) -> Self {
        let id = hub.lock().admit(Arc::clone(&outbox), peer, local);
        Self { id, hub, outbox, subscriptions: 0 }
    }

    /// The client's id, as `CLIENT ID` returns it.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Queues a reply. If it does not fit, the outbox ends the connection.
    pub(super) fn say(&self, reply: Reply) {
        self.outbox.push(wire::encode(&reply, &self.outbox.version()));
    }

    /// Runs a request and queues its reply; returns `Break` if the connection must end.
    pub(super) fn answer(&mut self, request: &[Bytes]) -> ControlFlow<()> {
        let Some((name, arguments)) = request.split_first() else {
            return ControlFlow::Continue(());
        };
        let command = lower(name);
        match self.run(&command, name, arguments) {
            Ok(Some(reply)) => self.say(reply),
            Ok(None) => {}
            Err(words) => self.say(wire::error(&words)),
        }
        if command == "quit" { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Runs a command and returns its reply; `None` if the command has queued its replies itself.
    fn run(
        &mut self,
        command: &str,
        name: &[u8],
        arguments: &[Bytes],
    ) -> Result<Option<Reply>, String> {
        let Some((_, arity)) = COMMANDS.iter().find(|(known, _)| *known == command) else {
            return Err(words::unknown_command(name, arguments));
        };
        let count = i64::try_from(arguments.len() + 1).unwrap_or(i64::MAX);
        if count < arity.abs() || (*arity > 0 && count > *arity) {
            return Err(words::wrong_arity(command));
        }
        let restricted = self.subscriptions > 0 && self.outbox.version() == RespVersion::RESP2;
        let reply = match (command, arguments) {
            ("ping", [_, _, ..]) => return Err(words::wrong_arity(command)),
            ("ping", text) if restricted => {
                wire::push("pong", [wire::bulk(text.first().cloned().unwrap_or_default())])
            }
            ("ping", []) => wire::simple("PONG"),
            ("ping", [text]) => wire::bulk(text.clone()),
            ("quit", _) => wire::simple("OK"),
            ("reset", _) => self.reset(),
            ("subscribe", names) => return self.subscribe(Kind::Channel, names),
            ("psubscribe", names) => return self.subscribe(Kind::Pattern, names),
            ("unsubscribe", names) => return self.unsubscribe(Kind::Channel, names),
            ("punsubscribe", names) => return self.unsubscribe(Kind::Pattern, names),
            _ if restricted => {
                let command = match arguments {
                    [first, ..] if CONTAINERS.contains(&command) => {
                        format!("{command}|{}", lower(first))
                    }
                    _ => command.to_owned(),
                };
                return Err(format!(
                    "ERR Can't execute '{command}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / \
                     PING / QUIT / RESET are allowed in this context"
                ));
            }
            ("publish", [channel, payload]) => {
                check_name(channel)?;
                wire::number(self.hub.lock().publish(channel, payload))
            }
            ("pubsub", [subcommand, rest @ ..]) => self.pubsub(subcommand, rest)?,
            ("client", [subcommand, rest @ ..]) => self.client(subcommand, rest)?,
            ("command", []) => wire::array([]),
            ("command", [subcommand, rest @ ..]) => about::describe(subcommand, rest)?,
            ("hello", options) => self.hello(options)?,
            ("info", _) => self.info(),
            ("echo", [text]) => wire::bulk(text.clone()),
            ("select", _) | ("auth", [_] | [_, _]) => wire::simple("OK"),
            _ => return Err("ERR syntax error".into()),
        };
        Ok(Some(reply))
    }

    /// Subscribes to the names. Each is confirmed while the hub is locked, so that no message can
    /// be queued before the confirmation of its subscription.
    fn subscribe(&mut self, kind: Kind, names: &[Bytes]) -> Result<Option<Reply>, String> {
        let mut hub = self.hub.lock();
        for name in names {
            check_name(name)?;
            let Some(count) = hub.subscribe(self.id, kind, name) else {
                return Err(format!(
                    "ERR too many subscriptions: a client may have {MAX_SUBSCRIPTIONS}"
                ));
            };
            self.subscriptions = count;
            let word = match kind {
                Kind::Channel => "subscribe",
                Kind::Pattern => "psubscribe",
            };
            self.say(wire::push(word, [wire::bulk(name.clone()), wire::number(count)]));
        }
        Ok(None)
    }

    /// Unsubscribes from the names, or from all if there are none.
    fn unsubscribe(&mut self, kind: Kind, names: &[Bytes]) -> Result<Option<Reply>, String> {
        let word = match kind {
            Kind::Channel => "unsubscribe",
            Kind::Pattern => "punsubscribe",
        };
        let mut hub = self.hub.lock();
        let all: Vec<Bytes>;
        let names = if names.is_empty() {
            all = hub.names(self.id, kind).into_iter().collect();
            &all
        } else {
            names
        };
        if names.is_empty() {
            return Ok(Some(wire::push(word, [Reply::Null, wire::number(self.subscriptions)])));
        }
        for name in names {
            self.subscriptions = hub.unsubscribe(self.id, kind, name);
            self.say(wire::push(
                word,
                [wire::bulk(name.clone()), wire::number(self.subscriptions)],
            ));
        }
        Ok(None)
    }

    /// Resets the client to the state of a new connection, without unsubscribe messages.
    fn reset(&mut self) -> Reply {
        let mut hub = self.hub.lock();
        hub.unsubscribe_all(self.id);
        if let Some(client) = hub.client(self.id) {
            client.name = Bytes::new();
        }
        self.subscriptions = 0;
        self.outbox.set_version(&RespVersion::RESP2);
        wire::simple("RESET")
    }

    fn pubsub(&self, subcommand: &Bytes, arguments: &[Bytes]) -> Answer {
        let lowered = lower(subcommand);
        let hub = self.hub.lock();
        Ok(match (lowered.as_str(), arguments) {
            ("channels", []) => wire::array(hub.channels().cloned().map(wire::bulk)),
            ("channels", [pattern]) => {
                check_name(pattern)?;
                let found = hub.channels().filter(|channel| glob::matches(pattern, channel));
                wire::array(found.cloned().map(wire::bulk))
            }
            ("numsub", names) => {
                wire::array(names.iter().flat_map(|name| {
                    [wire::bulk(name.clone()), wire::number(hub.subscribers(name))]
                }))
            }
            ("numpat", []) => wire::number(hub.patterns()),
            ("numpat", _) => return Err(words::wrong_arity("pubsub|numpat")),
            ("channels", _) => return Err(words::bad_subcommand("PUBSUB", subcommand)),
            _ => return Err(words::unknown_subcommand("PUBSUB", subcommand)),
        })
    }
}
