//! Records what has been proven about the source: which server is watched, and up to when its
//! stream of messages is complete.

use std::time::Duration;

use tokio::time::Instant;

use super::identity::{Continuity, Identity, Replication, Role};

/// A replica reports the time since the last data from its master in whole seconds.
const HEARD_RESOLUTION: Duration = Duration::from_secs(1);

/// What has been proven about the source. All times are those at which a probe or command was
/// *sent*: its answer proves nothing about the time after that.
pub struct Ledger {
    identity: Identity,
    /// All messages that the watched server received before this time have arrived.
    complete: Instant,
    /// The latest time at which the host name led to the watched server.
    led_here: Instant,
    /// The host name leads to another server now, which will be watched next.
    has_moved: bool,
    /// The host name leads to another server, but the watched one may not be left yet: a
    /// description for log and status.
    pub astray: Option<String>,
    /// The watched server reported its link to its master as down in the latest answer.
    is_cut_off: bool,
    /// Probes are published at the master, so an echo proves the path through the replica as well.
    probes_at_master: bool,
}

/// What a change of the replication state means for the current subscription.
#[derive(Debug, PartialEq)]
pub enum Judgement {
    /// No message is missing.
    Unbroken,
    /// The server has lost its link to its master: messages may be missing until the link is up.
    CutOff,
    /// Messages may be missing since this time.
    Broken(Instant),
}

impl Ledger {
    /// A ledger that treats the stream as complete until now.
    pub fn new(probes_at_master: bool) -> Self {
        let (now, identity) = (Instant::now(), Identity::default());
        Self {
            identity,
            complete: now,
            led_here: now,
            has_moved: false,
            astray: None,
            is_cut_off: false,
            probes_at_master,
        }
    }

    /// The server that is watched.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Records a new subscription at the server to which the host name leads. Returns the time
    /// since which messages may be missing; the caller queues the gap from then until now.
    pub fn subscribed(&mut self, identity: Identity) -> Instant {
        let is_another = self.identity.is_same_process(&identity) == Some(false);
        // An echo of the previous server proves nothing if its publishers had already left it.
        let lost_since = if is_another || self.has_moved {
            self.complete.min(self.led_here)
        } else {
            self.complete
        };
        self.is_cut_off = identity.replication.is_cut_off();
        self.identity = identity;
        let now = Instant::now();
        self.complete = if self.is_cut_off { lost_since } else { now };
        (self.led_here, self.has_moved, self.astray) = (now, false, None);
        lost_since
    }

    /// Whether the watched server reported its link to its master as down in the latest answer.
    pub fn is_cut_off(&self) -> bool {
        self.is_cut_off
    }

    /// Records that a probe sent at this time has come back.
    pub fn echoed(&mut self, sent: Instant) {
        if self.is_cut_off {
            return;
        }
        // A probe published at a replica does not pass the master: it proves only what the replica
        // had received when it last had data from the master.
        let lag = match &self.identity.replication.role {
            Role::Replica { heard, .. } if !self.probes_at_master => *heard + HEARD_RESOLUTION,
            _ => Duration::ZERO,
        };
        if let Some(complete) = sent.checked_sub(lag) {
            self.complete = self.complete.max(complete);
        }
    }

    /// Records that the host name led to the watched server at this time; returns the previous such
    /// time.
    pub fn led_here(&mut self, at: Instant) -> Instant {
        std::mem::replace(&mut self.led_here, at)
    }

    /// Records that the host name leads to another server, which will be watched next.
    pub fn moved(&mut self) {
        self.has_moved = true;
    }

    /// Compares the watched server's replication state with the recorded one, and records it.
    pub fn judge(&mut self, replication: Replication) -> Judgement {
        let before = &self.identity.replication;
        let judgement = match replication.continues(before, self.is_cut_off) {
            Continuity::CutOff => {
                self.is_cut_off = true;
                // Keep the state from before: the stream is compared with it when the link is up.
                return Judgement::CutOff;
            }
            Continuity::Unbroken => Judgement::Unbroken,
            Continuity::Broken => {
                let lost_since = self.complete;
                self.complete = Instant::now();
                Judgement::Broken(lost_since)
            }
        };
        self.is_cut_off = false;
        self.identity.replication = replication;
        judgement
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_secs(1);

    fn server(run_id: &str, replication: &str) -> Identity {
        let replication = Replication::read(replication);
        Identity { run_id: Some(run_id.to_owned()), replication, ..Identity::default() }
    }

    fn master(run_id: &str) -> Identity {
        server(run_id, "role:master\r\nmaster_replid:a\r\n")
    }

    fn replica(link: &str, offset: u64, first: u64) -> Identity {
        let text = format!(
            "role:slave\r\nmaster_link_status:{link}\r\nmaster_replid:a\r\nslave_repl_offset:{offset}\r\n\
             repl_backlog_first_byte_offset:{first}\r\nrepl_backlog_size:1000\r\n\
             repl_backlog_histlen:1\r\nmaster_last_io_seconds_ago:2\r\n"
        );
        server("r", &text)
    }

    /// A ledger of a server, and the time of its subscription.
    fn ledger(identity: Identity) -> (Ledger, Instant) {
        let mut ledger = Ledger::new(false);
        let now = Instant::now();
        ledger.subscribed(identity);
        (ledger, now)
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_server_is_complete_until_the_last_echo() {
        let (mut ledger, start) = ledger(master("x"));
        ledger.echoed(start + 5 * STEP);
        assert_eq!(ledger.subscribed(master("x")), start + 5 * STEP);
    }

    #[tokio::test(start_paused = true)]
    async fn a_subscription_at_another_server_is_incomplete_since_the_name_led_to_the_first() {
        let (mut ledger, start) = ledger(master("x"));
        ledger.led_here(start + 2 * STEP);
        ledger.echoed(start + 5 * STEP);
        assert_eq!(ledger.subscribed(master("y")), start + 2 * STEP);
    }

    #[tokio::test(start_paused = true)]
    async fn a_moved_name_counts_if_servers_do_not_report_their_identity() {
        let (mut ledger, start) = ledger(Identity::default());
        ledger.echoed(start + 5 * STEP);
        ledger.moved();
        assert_eq!(ledger.subscribed(Identity::default()), start);
        ledger.echoed(start + 12 * STEP);
        assert_eq!(ledger.subscribed(Identity::default()), start + 12 * STEP);
    }

    #[tokio::test(start_paused = true)]
    async fn an_echo_at_a_replica_proves_only_the_time_until_the_last_data_from_its_master() {
        let (mut ledger, start) = ledger(replica("up", 10, 1));
        ledger.echoed(start + 9 * STEP);
        assert_eq!(ledger.subscribed(replica("up", 20, 1)), start + 6 * STEP);
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_whose_link_was_down_is_compared_with_its_state_before() {
        let (mut full, start) = ledger(replica("up", 10, 1));
        assert_eq!(full.judge(replica("down", 10, 1).replication), Judgement::CutOff);
        full.echoed(start + 9 * STEP);
        assert_eq!(full.judge(replica("up", 90, 80).replication), Judgement::Broken(start));
        let (mut partial, _) = ledger(replica("up", 10, 1));
        assert_eq!(partial.judge(replica("down", 10, 1).replication), Judgement::CutOff);
        assert_eq!(partial.judge(replica("up", 90, 1).replication), Judgement::Unbroken);
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_whose_link_is_down_at_the_start_proves_nothing_until_it_is_up() {
        let (mut ledger, start) = ledger(replica("down", 10, 1));
        ledger.echoed(start + 5 * STEP);
        assert_eq!(ledger.judge(replica("up", 90, 80).replication), Judgement::Broken(start));
    }
}
