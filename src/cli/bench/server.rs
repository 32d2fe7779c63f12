//! CPU time and memory of the server's processes, from Linux's `/proc`.

use std::time::Duration;

use anyhow::Context;

/// Unit of CPU time in `/proc`: Linux reports it in 1/100 s on all common platforms.
const TICK: Duration = Duration::from_millis(10);

/// The processes of one server, and their usage at four moments. Without processes, nothing is
/// measured.
pub struct Server {
    pids: Vec<u32>,
    before: Usage,
    joined: Usage,
    idle: Usage,
    after: Usage,
}

/// Usage of one or more processes.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    /// User and system time.
    cpu: Duration,
    /// Resident memory in bytes.
    rss: u64,
}

/// What the benchmark cost the server.
pub struct Cost {
    /// CPU time until all viewers had joined.
    pub connecting: Duration,
    /// CPU time from then until the first message, or the end of the hold.
    pub holding: Duration,
    /// CPU time from before the first message to the end.
    pub cpu: Duration,
    /// Resident bytes before any viewer connected.
    pub rss_before: u64,
    /// Resident bytes when all viewers had joined and nothing had been published.
    pub rss_idle: u64,
    /// Resident bytes at the end, with all viewers still connected.
    pub rss_after: u64,
}

impl Server {
    /// Takes the first measurement, before any viewer connects.
    ///
    /// # Errors
    /// If a process does not exist, or the system is not Linux.
    pub fn watch(pids: &[u32]) -> anyhow::Result<Self> {
        let before = Usage::of(pids)?;
        Ok(Self { pids: pids.to_vec(), before, joined: before, idle: before, after: before })
    }

    /// Takes the second measurement, when all viewers have joined.
    ///
    /// # Errors
    /// If a process has ended.
    pub fn joined(&mut self) -> anyhow::Result<()> {
        self.joined = Usage::of(&self.pids)?;
        Ok(())
    }

    /// Takes the third measurement, before the first message or at the end of the hold.
    ///
    /// # Errors
    /// If a process has ended.
    pub fn begin(&mut self) -> anyhow::Result<()> {
        self.idle = Usage::of(&self.pids)?;
        Ok(())
    }

    /// Takes the last measurement, after the last delivery and before viewers disconnect.
    ///
    /// # Errors
    /// If a process has ended.
    pub fn end(&mut self) -> anyhow::Result<()> {
        self.after = Usage::of(&self.pids)?;
        Ok(())
    }

    /// The cost, if there are processes to measure.
    pub fn cost(&self) -> Option<Cost> {
        (!self.pids.is_empty()).then(|| Cost {
            connecting: self.joined.cpu.saturating_sub(self.before.cpu),
            holding: self.idle.cpu.saturating_sub(self.joined.cpu),
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
                format!("cannot read the usage of process {pid}: check --pid (works on Linux only)")
            })?;
            Ok(Self { cpu: sum.cpu + one.cpu, rss: sum.rss + one.rss })
        })
    }

    fn of_one(pid: u32) -> Option<Self> {
        let read = |file| std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
        let (stat, status) = (read("stat")?, read("status")?);
        // The process name before the last `)` may contain any characters; utime and stime are the
        // twelfth and thirteenth fields after it.
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
    fn usage_is_read_and_a_missing_process_is_an_error() {
        let usage = Usage::of(&[std::process::id()]).expect("this process exists");
        assert!(usage.rss > 1 << 20);
        let error = Server::watch(&[u32::MAX]).err().expect("no such process").to_string();
        assert!(error.contains("--pid"), "{error}");
    }
}
