//! What the server's processes take while they serve, as Linux counts it.

use std::time::Duration;

use anyhow::Context;

/// Of CPU time, as it is told; the same on every machine that matters.
const TICK: Duration = Duration::from_millis(10);

/// The processes of one server, and what was seen of them; none are looked at if none are named.
pub struct Server {
    pids: Vec<u32>,
    before: Usage,
    idle: Usage,
    after: Usage,
}

/// What processes have taken.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    /// In the kernel and outside.
    cpu: Duration,
    /// Bytes in memory.
    rss: u64,
}

/// What there is to tell about a server.
pub struct Cost {
    /// CPU time from the first message to the end.
    pub cpu: Duration,
    /// Bytes in memory before anybody connected.
    pub rss_before: u64,
    /// While all were connected and nothing had been published.
    pub rss_idle: u64,
    /// At the end.
    pub rss_after: u64,
}

impl Server {
    /// Looks for the first time, before anybody connects.
    pub fn watch(pids: &[u32]) -> anyhow::Result<Self> {
        let before = Usage::of(pids)?;
        Ok(Self { pids: pids.to_vec(), before, idle: before, after: before })
    }

    /// Everybody is connected, and messages will come.
    pub fn begin(&mut self) -> anyhow::Result<()> {
        self.idle = Usage::of(&self.pids)?;
        Ok(())
    }

    /// All is over, and everybody still connected.
    pub fn end(&mut self) -> anyhow::Result<()> {
        self.after = Usage::of(&self.pids)?;
        Ok(())
    }

    /// What was seen, if anything was looked at.
    pub fn cost(&self) -> Option<Cost> {
        (!self.pids.is_empty()).then(|| Cost {
            cpu: self.after.cpu.saturating_sub(self.idle.cpu),
            rss_before: self.before.rss,
            rss_idle: self.idle.rss,
            rss_after: self.after.rss,
        })
    }
}

impl Usage {
    fn of(pids: &[u32]) -> anyhow::Result<Self> {
        pids.iter().try_fold(Self::default(), |sum, &pid| {
            let one = Self::of_one(pid).with_context(|| {
                format!("no process {pid} can be looked at: check --pid (on Linux alone)")
            })?;
            Ok(Self { cpu: sum.cpu + one.cpu, rss: sum.rss + one.rss })
        })
    }

    fn of_one(pid: u32) -> Option<Self> {
        let read = |file| std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
        let (stat, status) = (read("stat")?, read("status")?);
        // The name before the last `)` may hold anything; utime and stime are the twelfth and the
        // thirteenth after it.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse::<u32>().ok();
        let cpu = TICK * (ticks()? + ticks()?);
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let rss = rss.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10;
        Some(Self { cpu, rss })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_something_and_one_that_is_not_there_is_told() {
        let usage = Usage::of(&[std::process::id()]).expect("it is there");
        assert!(usage.rss > 1 << 20);
        let error = Server::watch(&[u32::MAX]).err().expect("not there").to_string();
        assert!(error.contains("--pid"), "{error}");
    }
}
