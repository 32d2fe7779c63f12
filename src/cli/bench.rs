//! `roomcast bench`: viewers by the thousand, and what comes of what is published to them.

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

/// Open viewers at a server, publish to them, and count what comes: lost, doubled, reordered, how
/// many a second, how late. Exit code 1 if anything but each message once and in order came
#[derive(Args)]
pub struct Bench {
    /// The server: http://, https://, ws:// or wss://; of a plain WebSocket, with {room}
    #[arg(default_value = "http://localhost:8080")]
    url: String,
    /// How many viewers
    #[arg(long, default_value_t = 100, value_name = "COUNT", value_parser = units::count)]
    viewers: usize,
    /// Over how many rooms they are spread
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = units::count)]
    rooms: usize,
    /// Messages a second, in all rooms together; `max` is flat out
    #[arg(long, default_value = "100", value_name = "RATE", value_parser = units::rate)]
    rate: units::Rate,
    /// For how long messages are published
    #[arg(long = "for", default_value = "10s", value_name = "TIME", value_parser = units::time)]
    time: Duration,
    /// How many messages are published, however long that takes
    #[arg(long, value_name = "COUNT", conflicts_with = "time", value_parser = units::count)]
    count: Option<usize>,
    /// Publish nothing: keep the connections for so long, and look at what they take
    #[arg(long, value_name = "TIME", conflicts_with_all = ["time", "count", "rate"], value_parser = units::time)]
    hold: Option<Duration>,
    /// Bytes of a message
    #[arg(long, default_value_t = 64, value_name = "BYTES", value_parser = units::size)]
    size: usize,
    /// Processes of the server, to count its CPU time and memory (on Linux), comma-separated
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pid: Vec<u32>,
    /// Viewers that stop reading once they have joined; they do not count
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    stalled: usize,
    /// Viewers that read slowly; they do not count
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    slow: usize,
    /// How much a slow one reads, bit, kbit or Mbit a second
    #[arg(long, default_value = "56kbit", value_name = "RATE", value_parser = units::bandwidth)]
    slow_rate: units::Bandwidth,
    /// What its rooms are named by: benchmarks of one number share them. Unset: a random number
    #[arg(long, value_name = "NUMBER")]
    run: Option<u32>,
    /// Begin by polling, and upgrade to WebSocket, as browsers do
    #[arg(long)]
    upgrade: bool,
    /// Connections begun a second at most
    #[arg(long, value_name = "RATE", value_parser = units::rate)]
    connect_rate: Option<units::Rate>,
    /// Threads that the viewers are on. Unset: half of the cores
    #[arg(long, value_name = "COUNT", value_parser = units::count)]
    threads: Option<usize>,
    #[command(flatten)]
    trust: Trust,
    /// What the viewers speak
    #[arg(long, value_enum, default_value = "socketio", value_name = "NAME")]
    protocol: Protocol,
    /// Where to publish: redis (REDISHOST), or a URL with {room} that takes POSTs
    #[arg(long, default_value = "redis", value_name = "WHERE")]
    publish: String,
    /// Connections that POST; messages of one room keep to one of them
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
    /// Connects, publishes, waits for what comes, and reports.
    pub async fn run(self, config: &Config) -> anyhow::Result<ExitCode> {
        ensure!(
            self.stalled + self.slow <= self.viewers,
            "--stalled and --slow are more than --viewers"
        );
        ensure!(
            !self.upgrade || self.protocol == Protocol::Socketio,
            "--upgrade: only Socket.IO begins by polling"
        );
        let door = self.door(config).await?;
        let target = Target::find(&self.url, self.protocol, self.upgrade, &self.trust).await?;
        let mut server = Server::watch(&self.pid)?;
        let plan = Arc::new(self.plan(target));
        eprintln!("{}", self.announcement(&plan, config));
        let bar = Bar::new(plan.viewers as u64);
        let (audience, connecting) = Fleet::gather(&plan, &bar).await?;
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
        let report = Report { plan, connecting, published, outcome, server };
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

    /// What is going to happen, and where.
    fn announcement(&self, plan: &Plan, config: &Config) -> String {
        let (viewers, rooms, url) = (plan.viewers, plan.rooms, &plan.target.url);
        let what = if let Some(hold) = self.hold {
            format!("keeps them for {}", format_duration(hold))
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
        format!("Opens {viewers} viewers of {rooms} rooms at {url}, and {what}.")
    }
}
