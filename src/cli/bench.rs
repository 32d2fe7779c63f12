//! `roomcast bench`: opens viewers by the thousand, publishes to their rooms and counts deliveries.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::Args;
use humantime::format_duration;
use roomcast::{config::Config, redis::Publisher};
use tokio::time::sleep;

mod answer;
mod entrance;
mod fleet;
mod frame;
mod line;
mod plan;
mod posts;
mod publishing;
mod report;
mod server;
mod stamp;
mod tally;
mod target;
mod trust;
mod units;
mod viewer;
mod worker;

use fleet::{Fleet, LOOK_EVERY};
use plan::Plan;
use posts::Posts;
use publishing::{Door, End, Published, Publishing};
use report::{Bar, Report};
use server::Server;
use target::{Protocol, Target};
use trust::Trust;

/// Connect viewers to a server, publish to their rooms and measure the deliveries: lost, doubled
/// and reordered messages, rate, latency. Exit code 1 unless each message arrived once and in order
#[derive(Args)]
pub struct Bench {
    /// The server's URL: http://, https://, ws:// or wss://; for a plain WebSocket, with {room}
    #[arg(default_value = "http://localhost:8080")]
    url: String,
    /// Number of viewers
    #[arg(long, default_value_t = 100, value_name = "COUNT", value_parser = units::count)]
    viewers: usize,
    /// Number of rooms that the viewers are spread over
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = units::count)]
    rooms: usize,
    /// Messages per second, in all rooms together; `max` = as many as possible
    #[arg(long, default_value = "100", value_name = "RATE", value_parser = units::rate)]
    rate: units::Rate,
    /// How long to publish
    #[arg(long = "for", default_value = "10s", value_name = "TIME", value_parser = units::time)]
    time: Duration,
    /// Number of messages to publish, however long that takes
    #[arg(long, value_name = "COUNT", conflicts_with = "time", value_parser = units::count)]
    count: Option<usize>,
    /// Publish nothing: keep the connections open for this long; with --pid, measure their memory
    #[arg(long, value_name = "TIME", conflicts_with_all = ["time", "count", "rate"], value_parser = units::time)]
    hold: Option<Duration>,
    /// Size of a message in bytes
    #[arg(long, default_value_t = 64, value_name = "BYTES", value_parser = units::size)]
    size: usize,
    /// Processes of the server, to measure its CPU time and memory (on Linux), comma-separated
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pid: Vec<u32>,
    /// Viewers that stop reading once they have joined; reported separately
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    stalled: usize,
    /// Viewers that read slowly; reported separately
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    slow: usize,
    /// Rate at which a slow viewer reads, in bit, kbit or Mbit per second
    #[arg(long, default_value = "56kbit", value_name = "RATE", value_parser = units::bandwidth)]
    slow_rate: units::Bandwidth,
    /// Number in the rooms' names: benchmarks with the same number share rooms. Unset: random
    #[arg(long, value_name = "NUMBER")]
    run: Option<u32>,
    /// Connect by polling and upgrade to WebSocket, as browsers do
    #[arg(long)]
    upgrade: bool,
    /// Maximum number of new connections per second
    #[arg(long, value_name = "RATE", value_parser = units::rate)]
    connect_rate: Option<units::Rate>,
    /// Threads that run the viewers. Unset: half of the cores
    #[arg(long, value_name = "COUNT", value_parser = units::count)]
    threads: Option<usize>,
    #[command(flatten)]
    trust: Trust,
    /// The viewers' protocol
    #[arg(long, value_enum, default_value = "socketio", value_name = "NAME")]
    protocol: Protocol,
    /// Where to publish: redis (REDISHOST), or a URL with {room} to POST to
    #[arg(long, default_value = "redis", value_name = "WHERE")]
    publish: String,
    /// Connections for POSTs; all messages of a room use the same one
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = units::count)]
    publishers: usize,
    /// Token for the POSTs
    #[arg(long, value_name = "TOKEN", env = "BENCH_TOKEN", hide_env_values = true)]
    bearer: Option<String>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Bench {
    /// Connects, publishes, waits for the deliveries, and prints the report. The exit code is 1
    /// unless each message arrived once and in order.
    ///
    /// # Errors
    /// If the benchmark cannot run to its end: flags that contradict each other, no server or
    /// publisher to connect to, a viewer that cannot join.
    pub async fn run(self, config: &Config) -> anyhow::Result<ExitCode> {
        ensure!(
            self.stalled + self.slow <= self.viewers,
            "--stalled and --slow together exceed --viewers: lower them, or raise --viewers"
        );
        ensure!(
            !self.upgrade || self.protocol == Protocol::Socketio,
            "--upgrade: only Socket.IO starts with polling; use --protocol socketio"
        );
        let door = self.door(config).await?;
        let target = Target::find(&self.url, self.protocol, self.upgrade, &self.trust).await?;
        let mut server = Server::watch(&self.pid)?;
        let plan = Arc::new(self.plan(target));
        eprintln!("{}", self.announcement(&plan, config));
        let bar = Bar::new(plan.viewers as u64);
        let (audience, connecting) = Fleet::gather(&plan, &bar).await?;
        server.joined()?;
        let mut published = Published::default();
        match door {
            None => {
                sleep(self.hold.unwrap_or_default()).await;
                server.begin()?;
            }
            Some(door) => {
                server.begin()?;
                published = self.publish(door, &plan, &audience, &bar).await?;
                audience.settle(plan.expected(published.count), &bar).await?;
            }
        }
        server.end()?;
        bar.clear();
        let outcome = audience.leave()?;
        let hold = self.hold.unwrap_or_default();
        let report = Report { plan, connecting, hold, published, outcome, server };
        if self.json {
            println!("{}", report.json());
        } else {
            print!("{report}");
        }
        Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn publish(
        &self,
        door: Door,
        plan: &Arc<Plan>,
        audience: &Fleet,
        bar: &Bar,
    ) -> anyhow::Result<Published> {
        let end = self.count.map_or(End::After(self.time), |count| End::Count(count as u64));
        let (count, progress) = (Arc::new(AtomicU64::new(0)), &audience.progress);
        let publishing = Publishing {
            door,
            rate: self.rate.per_second(),
            end,
            plan: plan.clone(),
            clock: progress.clock,
            published: count.clone(),
        };
        let from = progress.clock.elapsed();
        let publishing = publishing.run();
        tokio::pin!(publishing);
        loop {
            tokio::select! {
                took = &mut publishing => {
                    return Ok(Published { count: count.load(Relaxed), from, took: took? });
                }
                () = sleep(LOOK_EVERY) => {
                    audience.check()?;
                    bar.delivered(progress, plan.expected(count.load(Relaxed)));
                }
            }
        }
    }

    /// Where messages are published; `None` if none are.
    async fn door(&self, config: &Config) -> anyhow::Result<Option<Door>> {
        if self.hold.is_some() {
            return Ok(None);
        }
        Ok(Some(if self.publish == "redis" {
            Door::Redis(Publisher::connect(&super::publish::address(config)).await?)
        } else {
            let url = target::parse(&self.publish).context("--publish")?;
            Door::Http(
                Posts::connect(url, self.publishers, self.bearer.clone(), &self.trust).await?,
            )
        }))
    }

    fn plan(&self, target: Target) -> Plan {
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
        Plan {
            target,
            viewers: self.viewers,
            rooms: self.rooms,
            stalled: self.stalled,
            slow: self.slow,
            slow_rate: self.slow_rate.bytes(),
            connect_rate: self.connect_rate.and_then(units::Rate::per_second),
            size: self.size,
            run: self.run.unwrap_or_else(rand::random),
            threads: self.threads.unwrap_or(cores.div_ceil(2)).min(self.viewers),
        }
    }

    /// One sentence on what the benchmark is going to do, and where.
    fn announcement(&self, plan: &Plan, config: &Config) -> String {
        let (viewers, rooms, url) = (plan.viewers, plan.rooms, &plan.target.url);
        let what = if let Some(hold) = self.hold {
            format!("keeps them open for {}", format_duration(hold))
        } else {
            let place = match &*self.publish {
                "redis" => format!("Redis at {}", super::publish::address(config)),
                url => url.to_owned(),
            };
            let (rate, size) = (self.rate, self.size);
            let end = match self.count {
                Some(count) => format!("{count} in all"),
                None => format!("for {}", format_duration(self.time)),
            };
            format!("publishes messages of {size} bytes, {rate}, {end}, to {place}")
        };
        format!("Connects {viewers} viewers of {rooms} rooms to {url}, and {what}.")
    }
}
