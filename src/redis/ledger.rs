//! What has been proven about the source: which server is watched, and up to when its stream of
//! messages is complete.

use std::time::Duration;

use tokio::time::Instant;

use super::identity::{Continuity, Identity, Replication, Role};

/// A replica tells in whole seconds how long ago it heard its master.
const HEARD_RESOLUTION: Duration = Duration::from_secs(1);

/// What has been proven about the source. Times are those at which a question was *sent*: an answer
/// proves nothing about the time after.
pub struct Ledger {
    identity: Identity,
    /// Everything that the watched server was sent until then has arrived.
    complete: Instant,
    /// Then the setting's name led to the watched server.
    led_here: Instant,
    /// The name leads to another server now, which will be watched next.
    has_moved: bool,
    /// The name leads to another server, but the watched one is not left yet: what to say of it.
    pub astray: Option<String>,
    /// The watched server was cut off from its master at the last look.
    is_cut_off: bool,
    /// Probes are published at the master, so an echo proves the whole way.
    probes_at_master: bool,
}

/// What an identity means for the subscription that stands.
#[derive(Debug, PartialEq)]
pub enum Judgement {
    /// All is as before.
    Unbroken,
    /// The server is cut off from its master: messages may be missing until it is back.
    CutOff,
    /// Messages may be missing since then.
    Broken(Instant),
}

impl Ledger {
    /// As if everything had been proven until now.
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

    /// A subscription stands at the server that the name leads to. Returns since when messages may
    /// be missing; until now, all of them are told as a gap.
    pub fn subscribed(&mut self, identity: Identity) -> Instant {
        let is_another = self.identity.is_same_process(&identity) == Some(false);
        // An echo of the server before proves nothing if publishers had left it already.
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

    /// Whether the watched server was cut off from its master at the last look.
    pub fn is_cut_off(&self) -> bool {
        self.is_cut_off
    }

    /// A probe that was sent then has come back.
    pub fn echoed(&mut self, sent: Instant) {
        if self.is_cut_off {
            return;
        }
        // A replica echoes to itself: that says nothing about its master.
        let lag = match &self.identity.replication.role {
            Role::Replica { heard, .. } if !self.probes_at_master => *heard + HEARD_RESOLUTION,
            _ => Duration::ZERO,
        };
        if let Some(complete) = sent.checked_sub(lag) {
            self.complete = self.complete.max(complete);
        }
    }

    /// The name led to the watched server then; returns when it did before.
    pub fn led_here(&mut self, at: Instant) -> Instant {
        std::mem::replace(&mut self.led_here, at)
    }

    /// The name leads to another server, which will be watched next.
    pub fn moved(&mut self) {
        self.has_moved = true;
    }

    /// Takes what the watched server says of its replication now, and says what that means.
    pub fn judge(&mut self, replication: Replication) -> Judgement {
        let before = &self.identity.replication;
        let judgement = match replication.continues(before, self.is_cut_off) {
            Continuity::CutOff => {
                self.is_cut_off = true;
                // The stream is judged by what it was before the cut.
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

    /// A ledger that watches a server, and the time at which it was subscribed.
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
    async fn at_another_server_only_the_time_counts_at_which_the_name_led_to_the_first() {
        let (mut ledger, start) = ledger(master("x"));
        ledger.led_here(start + 2 * STEP);
        ledger.echoed(start + 5 * STEP);
        assert_eq!(ledger.subscribed(master("y")), start + 2 * STEP);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_moved_counts_where_servers_do_not_tell_what_they_are() {
        let (mut ledger, start) = ledger(Identity::default());
        ledger.echoed(start + 5 * STEP);
        ledger.moved();
        assert_eq!(ledger.subscribed(Identity::default()), start);
        ledger.echoed(start + 12 * STEP);
        assert_eq!(ledger.subscribed(Identity::default()), start + 12 * STEP);
    }

    #[tokio::test(start_paused = true)]
    async fn an_echo_at_a_replica_proves_what_its_master_sent_until_it_was_heard() {
        let (mut ledger, start) = ledger(replica("up", 10, 1));
        ledger.echoed(start + 9 * STEP);
        assert_eq!(ledger.subscribed(replica("up", 20, 1)), start + 6 * STEP);
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_was_cut_off_is_judged_by_its_state_before_the_cut() {
        let (mut full, start) = ledger(replica("up", 10, 1));
        assert_eq!(full.judge(replica("down", 10, 1).replication), Judgement::CutOff);
        full.echoed(start + 9 * STEP);
        assert_eq!(full.judge(replica("up", 90, 80).replication), Judgement::Broken(start));
        let (mut partial, _) = ledger(replica("up", 10, 1));
        assert_eq!(partial.judge(replica("down", 10, 1).replication), Judgement::CutOff);
        assert_eq!(partial.judge(replica("up", 90, 1).replication), Judgement::Unbroken);
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_is_cut_off_at_the_start_proves_nothing_until_it_is_linked() {
        let (mut ledger, start) = ledger(replica("down", 10, 1));
        ledger.echoed(start + 5 * STEP);
        assert_eq!(ledger.judge(replica("up", 90, 80).replication), Judgement::Broken(start));
    }
}
