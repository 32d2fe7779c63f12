//! Which server a connection leads to, and whether its stream of messages is complete: reads `INFO`
//! and compares it with an earlier answer.
//!
//! A master sends PUBLISH to its replicas through the replication stream. So a replica has every
//! message as long as its link is up. After an interruption it has every message if the stream
//! continues where it stopped (a partial resynchronisation).

use std::time::Duration;

use redis::RedisError;
use tokio::try_join;

use super::connection::{Commands, is_denied};

/// A server as its `INFO` describes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Identity {
    /// Identifies the process; it changes with each start. `None` if the user may not run `INFO` or
    /// the server does not report it.
    pub run_id: Option<String>,
    /// Redis' version; `None` as for `run_id`.
    pub version: Option<String>,
    /// The server is a Sentinel, which knows where a Redis is but has no messages itself.
    pub is_sentinel: bool,
    /// The server is the embedded broker of a Roomcast.
    pub is_embedded: bool,
    /// The state of its replication.
    pub replication: Replication,
}

/// The state of a server's replication.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Replication {
    /// Master or replica.
    pub role: Role,
    /// Identifies the replication stream (`master_replid`): a master and its replicas have the
    /// same.
    pub id: Option<String>,
    /// After a promotion, the stream that this one continues (`master_replid2`).
    earlier_id: Option<String>,
    /// The offset of the stream, in bytes.
    offset: u64,
    /// The offset of the oldest byte in the replication backlog.
    backlog_first: u64,
    /// Bytes in the backlog.
    backlog_bytes: u64,
    /// The size of the backlog, in bytes.
    backlog_size: u64,
}

/// Master or replica.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Role {
    /// The server does not report it.
    #[default]
    Unknown,
    /// Publishers publish to it directly.
    Master,
    /// The server receives its messages from a master.
    Replica {
        /// The master's `host:port`.
        master: String,
        /// The link is up, and the initial synchronisation is complete.
        is_linked: bool,
        /// The time since the last data from the master, in whole seconds.
        heard: Duration,
    },
}

impl Role {
    /// The role as metrics and `/status` show it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Master => "master",
            Self::Replica { .. } => "replica",
        }
    }
}

/// How the stream of a server continues its state in an earlier answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Continuity {
    /// No message is missing in between.
    Unbroken,
    /// Messages may be missing in between.
    Broken,
    /// The server is a replica without a link to its master; the stream can be compared once the
    /// link is up again.
    CutOff,
}

impl Identity {
    /// Asks the server. If the user may not run `INFO`, all fields stay empty.
    ///
    /// # Errors
    /// If the connection fails, or Redis answers with any other error, such as `-LOADING`.
    pub async fn ask(commands: &mut Commands) -> Result<Self, RedisError> {
        let mut others = commands.clone();
        let both = try_join!(info(commands, "server"), info(&mut others, "replication"));
        both.map(|(server, replication)| Self::read(&server, &replication))
    }

    fn read(server: &str, replication: &str) -> Self {
        Self {
            run_id: field(server, "run_id"),
            version: field(server, "redis_version"),
            is_sentinel: field(server, "redis_mode").as_deref() == Some("sentinel"),
            is_embedded: field(server, "roomcast_embedded").is_some(),
            replication: Replication::read(replication),
        }
    }

    /// Whether both are the same process; `None` if one of them has no `run_id`.
    pub fn is_same_process(&self, other: &Self) -> Option<bool> {
        Some(self.run_id.as_ref()? == other.run_id.as_ref()?)
    }

    /// Whether both have the same replication stream: a master and its replica, or two replicas.
    pub fn is_related(&self, other: &Self) -> bool {
        let id = &self.replication.id;
        id.is_some() && *id == other.replication.id
    }
}

/// A section of `INFO`; empty if the user may not run it or the server does not know it.
async fn info(commands: &mut Commands, section: &str) -> Result<String, RedisError> {
    match commands.ask(redis::cmd("INFO").arg(section)).await {
        Err(error) if is_denied(&error) || is_unknown_command(&error) => Ok(String::new()),
        answer => answer,
    }
}

fn is_unknown_command(error: &RedisError) -> bool {
    error.to_string().to_lowercase().contains("unknown command")
}

/// The value of the first line `name:value`; `None` if there is none or it is empty.
fn field(text: &str, name: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

impl Replication {
    /// Asks the server for its replication state, as [`Identity::ask`] does.
    ///
    /// # Errors
    /// If the connection fails, or Redis answers with any other error, such as `-LOADING`.
    pub async fn ask(commands: &mut Commands) -> Result<Self, RedisError> {
        Ok(Self::read(&info(commands, "replication").await?))
    }

    /// Reads the section `replication` of `INFO`.
    pub fn read(text: &str) -> Self {
        let number = |name| field(text, name).and_then(|value| value.parse().ok()).unwrap_or(0);
        let named = |name| field(text, name).filter(|id| id.bytes().any(|byte| byte != b'0'));
        let role = match field(text, "role").as_deref() {
            Some("master") => Role::Master,
            Some("slave" | "replica") => Role::Replica {
                master: format!(
                    "{}:{}",
                    field(text, "master_host").unwrap_or_default(),
                    field(text, "master_port").unwrap_or_default()
                ),
                is_linked: field(text, "master_link_status").as_deref() == Some("up")
                    && number("master_sync_in_progress") == 0,
                heard: Duration::from_secs(number("master_last_io_seconds_ago")),
            },
            _ => Role::Unknown,
        };
        let offset = match role {
            Role::Replica { .. } => number("slave_repl_offset"),
            Role::Master | Role::Unknown => number("master_repl_offset"),
        };
        Self {
            role,
            id: named("master_replid"),
            earlier_id: named("master_replid2"),
            offset,
            backlog_first: number("repl_backlog_first_byte_offset"),
            backlog_bytes: number("repl_backlog_histlen"),
            backlog_size: number("repl_backlog_size"),
        }
    }

    /// Whether the server is a replica whose link to its master is down.
    pub fn is_cut_off(&self) -> bool {
        matches!(self.role, Role::Replica { is_linked: false, .. })
    }

    /// Compares `self` with `before`, an earlier answer of the same process. `was_cut_off` says
    /// that an answer in between reported the link to the master as down.
    pub fn continues(&self, before: &Self, was_cut_off: bool) -> Continuity {
        use Continuity::{Broken, CutOff, Unbroken};
        match (&before.role, &self.role) {
            _ if self.is_cut_off() => CutOff,
            (Role::Unknown, _) | (_, Role::Unknown) => Unbroken,
            // A master without replicas changes its id when it frees or creates its backlog; only a
            // promotion sets an earlier id.
            (Role::Master, Role::Master) if self.id == before.id => Unbroken,
            (Role::Master, Role::Master) if self.earlier_id.is_none() => Unbroken,
            (Role::Replica { .. }, Role::Replica { .. }) if self.id == before.id => {
                let continues_there = self.backlog_first <= before.offset.saturating_add(1);
                let is_wrapped = self.backlog_size > 0 && self.backlog_bytes >= self.backlog_size;
                if self.offset >= before.offset && (continues_there || is_wrapped && !was_cut_off) {
                    Unbroken
                } else {
                    Broken
                }
            }
            _ => Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(id: &str, earlier: &str) -> Replication {
        Replication::read(&format!(
            "role:master\r\nmaster_replid:{id}\r\nmaster_replid2:{earlier}\r\nmaster_repl_offset:70\r\n"
        ))
    }

    /// A replica of `id` at `offset` whose backlog holds `bytes` of 100.
    fn replica(link: &str, id: &str, offset: u64, bytes: u64) -> Replication {
        let first = offset + 1 - bytes;
        Replication::read(&format!(
            "role:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:6379\r\nmaster_link_status:{link}\r\n\
             master_last_io_seconds_ago:2\r\nmaster_sync_in_progress:0\r\nslave_repl_offset:{offset}\r\n\
             master_replid:{id}\r\nmaster_replid2:0000\r\nrepl_backlog_size:100\r\n\
             repl_backlog_first_byte_offset:{first}\r\nrepl_backlog_histlen:{bytes}\r\n"
        ))
    }

    #[test]
    fn the_role_is_read_with_the_state_of_the_link() {
        let heard = Duration::from_secs(2);
        let master = "10.0.0.1:6379".to_owned();
        assert_eq!(
            replica("up", "a", 9, 9).role,
            Role::Replica { master: master.clone(), is_linked: true, heard }
        );
        assert_eq!(
            replica("down", "a", 9, 9).role,
            Role::Replica { master, is_linked: false, heard }
        );
        assert_eq!(Replication::read("").role, Role::Unknown);
    }

    #[test]
    fn a_demotion_and_a_promotion_break_the_stream() {
        let (was_master, is_replica) = (master("a", "000"), replica("up", "b", 70, 70));
        assert_eq!(is_replica.continues(&was_master, false), Continuity::Broken);
        assert_eq!(master("c", "b").continues(&is_replica, false), Continuity::Broken);
        // A demotion and a promotion between two answers.
        assert_eq!(master("c", "b").continues(&was_master, false), Continuity::Broken);
    }

    #[test]
    fn a_master_that_only_frees_its_backlog_is_unbroken() {
        assert_eq!(master("b", "000").continues(&master("a", "000"), false), Continuity::Unbroken);
    }

    #[test]
    fn a_replica_without_a_link_to_its_master_is_cut_off() {
        let before = replica("up", "a", 50, 50);
        assert_eq!(replica("down", "a", 50, 50).continues(&before, false), Continuity::CutOff);
        let demoted = replica("down", "a", 50, 50);
        assert_eq!(demoted.continues(&master("a", "000"), false), Continuity::CutOff);
    }

    #[test]
    fn a_replica_is_unbroken_after_a_partial_resynchronisation_but_not_after_a_full_one() {
        let before = replica("up", "a", 50, 50);
        assert_eq!(replica("up", "a", 80, 80).continues(&before, true), Continuity::Unbroken);
        // A full resynchronisation starts a new backlog, later in the stream.
        assert_eq!(replica("up", "a", 90, 10).continues(&before, true), Continuity::Broken);
        assert_eq!(replica("up", "a", 90, 10).continues(&before, false), Continuity::Broken);
        // The new backlog starts where the old stream ended: nothing is missing.
        assert_eq!(replica("up", "a", 60, 10).continues(&before, true), Continuity::Unbroken);
        // A full backlog no longer shows where it started; then the state of the link decides.
        assert_eq!(replica("up", "a", 900, 100).continues(&before, false), Continuity::Unbroken);
        assert_eq!(replica("up", "a", 900, 100).continues(&before, true), Continuity::Broken);
        assert_eq!(replica("up", "b", 80, 80).continues(&before, false), Continuity::Broken);
    }

    #[test]
    fn an_unknown_role_counts_as_unbroken() {
        let (unknown, master) = (Replication::default(), master("a", "000"));
        assert_eq!(unknown.continues(&master, false), Continuity::Unbroken);
        assert_eq!(master.continues(&unknown, false), Continuity::Unbroken);
    }

    #[test]
    fn a_sentinel_is_distinguished_from_a_redis() {
        let read = |mode: &str| Identity::read(&format!("redis_mode:{mode}\r\n"), "");
        assert!(read("sentinel").is_sentinel && !read("standalone").is_sentinel);
    }
}
