//! Commands about the client and the server: `HELLO`, `CLIENT`, `COMMAND`, `INFO`.

use std::fmt::Write;

use bytes::Bytes;

use super::{Answer, COMMANDS, Session};
use crate::dev_redis::hub::Client;
use crate::dev_redis::wire::{self, Reply, RespVersion};
use crate::dev_redis::words::{self, ECHOED, check_name, lossy, lower};

/// The version of Redis that the broker reports. Clients choose the commands they send by it.
const REDIS_VERSION: &str = "7.2.0";

impl Session {
    /// `HELLO [version [AUTH user password] [SETNAME name]]`: changes nothing unless all options
    /// are valid.
    pub(super) fn hello(&self, options: &[Bytes]) -> Answer {
        let (version, mut options) = match options {
            [] => (self.outbox.version(), options),
            [version, rest @ ..] => match version.as_ref() {
                b"2" => (RespVersion::RESP2, rest),
                b"3" => (RespVersion::RESP3, rest),
                other if is_number(other) => {
                    return Err("NOPROTO unsupported protocol version".into());
                }
                _ => return Err("ERR Protocol version is not an integer or out of range".into()),
            },
        };
        let mut new_name = None;
        while let [option, rest @ ..] = options {
            options = match (lower(option).as_str(), rest) {
                ("auth", [_user, _password, rest @ ..]) => rest,
                ("setname", [name, rest @ ..]) => {
                    new_name = Some(name);
                    rest
                }
                _ => {
                    let option = lossy(option, ECHOED);
                    return Err(format!("ERR Syntax error in HELLO option '{option}'"));
                }
            };
        }
        if let Some(name) = new_name {
            self.set_name(name)?;
        }
        self.outbox.set_version(&version);
        Ok(wire::map([
            ("server", wire::bulk("redis")),
            ("version", wire::bulk(REDIS_VERSION)),
            ("proto", wire::number(digit(&version))),
            ("id", wire::number(self.id)),
            ("mode", wire::bulk("standalone")),
            ("role", wire::bulk("master")),
            ("modules", wire::array([])),
        ]))
    }

    fn set_name(&self, name: &Bytes) -> Result<(), String> {
        if !name.iter().all(u8::is_ascii_graphic) {
            return Err(
                "ERR Client names cannot contain spaces, newlines or special characters.".into()
            );
        }
        check_name(name)?;
        if let Some(client) = self.hub.lock().client(self.id) {
            client.name = Bytes::copy_from_slice(name);
        }
        Ok(())
    }

    /// `CLIENT`'s subcommands.
    pub(super) fn client(&self, subcommand: &Bytes, arguments: &[Bytes]) -> Answer {
        let lowered = lower(subcommand);
        Ok(match (lowered.as_str(), arguments) {
            ("id", []) => wire::number(self.id),
            ("setinfo", [_, _]) | ("no-evict" | "no-touch", [_]) => wire::simple("OK"),
            ("setname", [name]) => {
                self.set_name(name)?;
                wire::simple("OK")
            }
            ("getname", []) => match self.hub.lock().client(self.id) {
                Some(client) if !client.name.is_empty() => wire::bulk(client.name.clone()),
                _ => Reply::Null,
            },
            ("info", []) => self.list(|id, _| id == self.id),
            ("list", []) => self.list(|_, _| true),
            ("list", [what, kind]) if lower(what) == "type" => {
                let pubsub = is_pubsub(kind)?;
                self.list(|_, client| pubsub == (client.subscriptions() > 0))
            }
            ("kill", [what, id]) if lower(what) == "id" => {
                let id = std::str::from_utf8(id)
                    .ok()
                    .and_then(|id| id.parse().ok())
                    .filter(|id| *id > 0);
                let id: u64 = id.ok_or("ERR client-id should be greater than 0")?;
                self.kill(|other, _| other == id)
            }
            ("kill", [what, kind]) if lower(what) == "type" => {
                let pubsub = is_pubsub(kind)?;
                self.kill(|_, client| pubsub == (client.subscriptions() > 0))
            }
            ("kill" | "list", [_, _, ..]) => return Err("ERR syntax error".into()),
            (
                "id" | "setinfo" | "no-evict" | "no-touch" | "setname" | "getname" | "info"
                | "list" | "kill",
                _,
            ) => {
                return Err(words::wrong_arity(&format!("client|{lowered}")));
            }
            _ => return Err(words::unknown_subcommand("CLIENT", subcommand)),
        })
    }

    fn list(&self, mut wanted: impl FnMut(u64, &Client) -> bool) -> Reply {
        let mut lines = String::new();
        for (id, client) in self.hub.lock().clients().filter(|(id, client)| wanted(*id, client)) {
            let name = String::from_utf8_lossy(&client.name);
            let flag = if client.subscriptions() > 0 { 'P' } else { 'N' };
            let resp = digit(&client.outbox.version());
            let (sub, psub) = (client.channels.len(), client.patterns.len());
            let (peer, local) = (client.peer, client.local);
            let _ = writeln!(
                lines,
                "id={id} addr={peer} laddr={local} name={name} flags={flag} db=0 \
                 sub={sub} psub={psub} ssub=0 multi=-1 user=default resp={resp}"
            );
        }
        wire::verbatim(lines)
    }

    /// Ends the connections of all other clients that match `wanted`; replies with their count.
    fn kill(&self, mut wanted: impl FnMut(u64, &Client) -> bool) -> Reply {
        let mut hub = self.hub.lock();
        let others = hub.clients().filter(|(id, client)| *id != self.id && wanted(*id, client));
        let ids: Vec<u64> = others.map(|(id, _)| id).collect();
        for id in &ids {
            hub.kill(*id);
        }
        wire::number(ids.len())
    }

    /// `INFO`, the same reply for every section. It contains what client libraries check before
    /// they use a server.
    pub(super) fn info(&self) -> Reply {
        let hub = self.hub.lock();
        let port = hub
            .clients()
            .find(|(id, _)| *id == self.id)
            .map_or(0, |(_, client)| client.local.port());
        wire::verbatim(format!(
            "# Server\r\nredis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\n\
             run_id:{}\r\nroomcast_embedded:1\r\ntcp_port:{port}\r\n\r\n\
             # Clients\r\nconnected_clients:{}\r\n\r\n\
             # Persistence\r\nloading:0\r\n\r\n\
             # Stats\r\npubsub_channels:{}\r\npubsub_patterns:{}\r\n\r\n\
             # Replication\r\nrole:master\r\nconnected_slaves:0\r\n",
            hub.run_id,
            hub.clients().count(),
            hub.channels().count(),
            hub.patterns(),
        ))
    }
}

/// `COMMAND`'s subcommands. Names and counts are real; documentation and details are empty, in the
/// shapes that clients expect.
pub(super) fn describe(subcommand: &Bytes, arguments: &[Bytes]) -> Answer {
    Ok(match (lower(subcommand).as_str(), arguments) {
        ("docs", _) => wire::map([]),
        ("info", names) => wire::array(names.iter().map(|_| Reply::Null)),
        ("count", []) => wire::number(COMMANDS.len()),
        ("list", _) => wire::array(COMMANDS.iter().map(|(name, _)| wire::bulk(*name))),
        ("count", _) => return Err(words::wrong_arity("command|count")),
        _ => return Err(words::unknown_subcommand("COMMAND", subcommand)),
    })
}

/// Whether the argument of `TYPE` means subscribers; otherwise it means all other clients.
///
/// # Errors
/// For any other type: no replica or master ever connects to the broker.
fn is_pubsub(kind: &Bytes) -> Result<bool, String> {
    match lower(kind).as_str() {
        "pubsub" => Ok(true),
        "normal" => Ok(false),
        _ => Err(format!("ERR Unknown client type '{}'", lossy(kind, ECHOED))),
    }
}

fn digit(version: &RespVersion) -> u8 {
    match version {
        RespVersion::RESP2 => 2,
        RespVersion::RESP3 => 3,
    }
}

fn is_number(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| text.parse::<i64>().is_ok())
}
