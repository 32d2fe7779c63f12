//! The result of a benchmark, as a table or as JSON, and its progress bar.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{
    fleet::{Outcome, Progress},
    plan::Plan,
    publishing::Published,
    server::{Cost, Server},
    tally::Tally,
};

/// The progress bar; invisible unless the output is a terminal.
pub struct Bar(ProgressBar);

impl Bar {
    /// A bar for the joins of this many viewers.
    pub fn new(viewers: u64) -> Self {
        let style = ProgressStyle::with_template("{msg:9} {wide_bar} {human_pos} of {human_len}");
        let bar = ProgressBar::new(viewers).with_message("joined");
        Self(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
    }

    /// Shows how many viewers have joined.
    pub fn joined(&self, count: u64) {
        self.0.set_position(count);
    }

    /// Shows how many of the expected messages have been delivered.
    pub fn delivered(&self, progress: &Progress, expected: u64) {
        self.0.set_message("delivered");
        self.0.set_length(expected);
        self.0.set_position(progress.delivered.load(Relaxed));
    }

    /// Removes the bar, so that the report can be printed.
    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// The result of a benchmark. [`Display`](fmt::Display) formats it as a table.
pub struct Report {
    /// The plan that was followed.
    pub plan: Arc<Plan>,
    /// How long it took until all viewers had joined.
    pub connecting: Duration,
    /// How long the connections were kept open without messages.
    pub hold: Duration,
    /// What was published.
    pub published: Published,
    /// What the viewers received.
    pub outcome: Outcome,
    /// The usage of the server's processes.
    pub server: Server,
}

impl Report {
    /// Whether each message arrived once and in order, and no brisk viewer was cut off.
    pub fn is_clean(&self) -> bool {
        let Tally { delivered, reordered, doubled, wrong, closed } = self.outcome.brisk;
        delivered == self.expected() && reordered + doubled + wrong + closed == 0
    }

    /// The result as JSON. Times have their unit in the name; `size` and `rss_…` are in bytes.
    pub fn json(&self) -> Value {
        let Tally { delivered, reordered, doubled, wrong, closed } = self.outcome.brisk;
        let ms = |quantile| self.outcome.latency.value_at_quantile(quantile) as f64 / 1000.0;
        let hindered = self.outcome.hindered;
        let server = self.server_cost().map(|(cost, each, connection)| {
            json!({
                "cpu_us_per_delivery": each,
                "cpu_us_per_connect": self.each_viewer(cost.connecting),
                "cpu_us_per_connection_second":
                    per_second(self.each_viewer(cost.holding), self.hold.as_secs_f64()),
                "cpu_s": cost.cpu.as_secs_f64(),
                "rss_before": cost.rss_before,
                "rss_idle": cost.rss_idle,
                "rss_after": cost.rss_after,
                "rss_per_connection": connection,
            })
        });
        json!({
            "viewers": self.plan.viewers,
            "rooms": self.plan.rooms,
            "size": self.plan.size,
            "connects_per_second": self.connects_per_second(),
            "published": self.published.count,
            "published_per_second": self.published_per_second(),
            "expected": self.expected(),
            "delivered": delivered,
            "deliveries_per_second": self.deliveries_per_second(),
            "lost": self.lost(),
            "doubled": doubled,
            "reordered": reordered,
            "wrong": wrong,
            "closed": closed,
            "seconds": self.seconds(),
            "latency_ms": { "p50": ms(0.5), "p99": ms(0.99), "max": ms(1.0) },
            "hindered": {
                "viewers": self.plan.stalled + self.plan.slow,
                "delivered": hindered.delivered,
                "closed": hindered.closed,
            },
            "server": server,
        })
    }

    fn expected(&self) -> u64 {
        self.plan.expected(self.published.count)
    }

    fn lost(&self) -> u64 {
        self.expected().saturating_sub(self.outcome.brisk.delivered)
    }

    /// Seconds from the first publish to the last delivery.
    fn seconds(&self) -> f64 {
        self.outcome.latest.saturating_sub(self.published.from).as_secs_f64()
    }

    fn connects_per_second(&self) -> f64 {
        per_second(self.plan.viewers as f64, self.connecting.as_secs_f64())
    }

    fn published_per_second(&self) -> f64 {
        per_second(self.published.count as f64, self.published.took.as_secs_f64())
    }

    fn deliveries_per_second(&self) -> f64 {
        per_second(self.outcome.brisk.delivered as f64, self.seconds())
    }

    /// A time in µs per viewer.
    fn each_viewer(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.plan.viewers as f64
    }

    /// The server's cost, its CPU time per delivery in µs, and its memory per connection in bytes.
    fn server_cost(&self) -> Option<(Cost, f64, f64)> {
        let cost = self.server.cost()?;
        let Outcome { brisk, hindered, .. } = &self.outcome;
        let deliveries = (brisk.delivered + hindered.delivered).max(1);
        let each = cost.cpu.as_secs_f64() * 1e6 / deliveries as f64;
        let connections = cost.rss_idle.saturating_sub(cost.rss_before) as f64;
        Some((cost, each, connections / self.plan.viewers as f64))
    }
}

fn per_second(count: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { count / seconds } else { 0.0 }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { viewers, size, .. } = *self.plan;
        let whole = |count: f64| HumanCount(count.round() as u64);
        let connects = whole(self.connects_per_second());
        writeln!(f, "joined     {} viewers, {connects} a second", HumanCount(viewers as u64))?;
        if self.published.count > 0 {
            self.fmt_messages(f, size)?;
        }
        let hindered = self.plan.stalled + self.plan.slow;
        if hindered > 0 {
            let Tally { delivered, closed, .. } = self.outcome.hindered;
            let delivered = HumanCount(delivered);
            writeln!(f, "hindered   {hindered} viewers, {delivered} deliveries, {closed} cut off")?;
        }
        if let Some((cost, each, connection)) = self.server_cost() {
            let (before, after) = (HumanBytes(cost.rss_before), HumanBytes(cost.rss_after));
            if self.published.count > 0 {
                writeln!(f, "CPU        {each:.2} µs a delivery")?;
            }
            let each = connection / 1024.0;
            writeln!(f, "memory     {each:.1} KiB a connection; {before} before, {after} after")?;
        }
        Ok(())
    }
}

impl Report {
    fn fmt_messages(&self, f: &mut fmt::Formatter<'_>, size: usize) -> fmt::Result {
        let Tally { delivered, reordered, doubled, wrong, closed } = self.outcome.brisk;
        let whole = |count: f64| HumanCount(count.round() as u64);
        let (count, rate) = (HumanCount(self.published.count), whole(self.published_per_second()));
        writeln!(f, "published  {count} messages of {size} bytes, {rate} a second")?;
        let (came, expected) = (HumanCount(delivered), HumanCount(self.expected()));
        let rate = whole(self.deliveries_per_second());
        writeln!(f, "delivered  {came} of {expected}, {rate} a second")?;
        let lost = HumanCount(self.lost());
        writeln!(
            f,
            "wrong      {lost} lost, {doubled} doubled, {reordered} reordered, {wrong} of another \
             room or damaged; {closed} viewers cut off"
        )?;
        let ms = |quantile| self.outcome.latency.value_at_quantile(quantile) as f64 / 1000.0;
        let (p50, p99, max) = (ms(0.5), ms(0.99), ms(1.0));
        writeln!(f, "latency    p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms")?;
        if delivered == 0 {
            writeln!(
                f,
                "No message arrived: check that the server subscribes to the same Redis \
                 (REDISHOST) and to these channels (REDIS_CHANNELS)"
            )?;
        }
        Ok(())
    }
}
