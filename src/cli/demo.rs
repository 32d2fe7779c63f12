//! `roomcast demo`: publishes simulated telemetry of five devices, and starts a server if none
//! answers.

use std::{process::ExitCode, time::Duration};

use roomcast::{
    Server,
    config::{Config, ListenAddr, RedisAddress},
    redis::Publisher,
};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{healthcheck, publish, serve};

/// The interval at which each device may publish messages.
const TICK: Duration = Duration::from_millis(250);
/// The pause before a new attempt, after publishing to Redis has failed.
const RETRY: Duration = Duration::from_secs(1);

/// Publishes until `stop` is cancelled. If this has started a server, the server drains before this
/// returns.
pub async fn run(config: Config, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    if let Ok((200, _)) = healthcheck::ask(&config.http_addr, "/livez").await {
        let page = format!("http://{}", local(&config.http_addr));
        println!("Publishing for the server that is already running:\n  {}", link(&page));
        publish_all(&publish::address(&config), stop).await;
        return Ok(ExitCode::SUCCESS);
    }
    let format = config.log_format;
    let server = Server::bind(config).await?;
    serve::announce(&server, format)?;
    println!("  Demo    {}", link(&serve::page(&server)?));
    let redis = server.redis().clone();
    // If the server fails, stop publishing too.
    let serve = async { server.run(stop.clone()).await.inspect_err(|_| stop.cancel()) };
    let (served, ()) = tokio::join!(serve, publish_all(&redis, stop.clone()));
    served.map(|()| ExitCode::SUCCESS)
}

/// The page's URL with the rooms of all devices.
fn link(page: &str) -> String {
    let rooms: Vec<_> = devices().iter().map(|device| format!("room={}", device.channel)).collect();
    format!("{page}/?{}", rooms.join("&"))
}

fn local(addr: &ListenAddr) -> ListenAddr {
    let host = addr.host.clone().filter(|host| !matches!(host.as_str(), "0.0.0.0" | "::"));
    ListenAddr { host: Some(host.unwrap_or("localhost".to_owned())), port: addr.port }
}

async fn publish_all(redis: &RedisAddress, stop: CancellationToken) {
    let publishing = async {
        let mut told = String::new();
        loop {
            if let Err(error) = publish_until_lost(redis).await {
                let news = format!("{error:#}");
                if told != news {
                    warn!("{news}; trying again");
                    told = news;
                }
            }
            sleep(RETRY).await;
        }
    };
    stop.run_until_cancelled(publishing).await;
}

async fn publish_until_lost(redis: &RedisAddress) -> anyhow::Result<()> {
    let mut publisher = Publisher::connect(redis).await?;
    let mut devices = devices();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for tick in 0u64.. {
        ticks.tick().await;
        for device in &mut devices {
            for _ in 0..(device.speaks)(tick) {
                publisher.publish(device.channel, device.measure().as_bytes()).await?;
            }
        }
    }
    Ok(())
}

/// A simulated device that publishes two measured values.
struct Device {
    channel: &'static str,
    /// Number of messages that the device publishes at a tick.
    speaks: fn(u64) -> u32,
    fields: [Field; 2],
}

/// A simulated value: a random walk that returns to its mean.
struct Field {
    name: &'static str,
    mean: f64,
    spread: f64,
    value: f64,
}

fn devices() -> [Device; 5] {
    let device = |channel, speaks, fields| Device { channel, speaks, fields };
    [
        // Steady rates: a message per second, two per second, one every five seconds.
        device(
            "device01",
            |tick| (tick % 4 == 0).into(),
            [Field::new("temperature_c", 21.5, 1.5), Field::new("humidity_pct", 45.0, 6.0)],
        ),
        device(
            "device02",
            |tick| (tick % 2 == 0).into(),
            [Field::new("temperature_c", 64.0, 4.0), Field::new("rpm", 1480.0, 60.0)],
        ),
        device(
            "device03",
            |tick| (tick % 20 == 0).into(),
            [Field::new("temperature_c", 4.5, 0.8), Field::new("battery_pct", 87.0, 0.5)],
        ),
        // Bursts: 20 messages within a second, then none for nine seconds.
        device(
            "device04",
            |tick| if tick % 40 < 4 { 5 } else { 0 },
            [Field::new("temperature_c", 30.0, 3.0), Field::new("rpm", 900.0, 250.0)],
        ),
        // A message per second for half a minute, then none for half a minute.
        device(
            "device05",
            |tick| (tick % 240 < 120 && tick % 4 == 0).into(),
            [Field::new("temperature_c", 18.0, 2.0), Field::new("humidity_pct", 60.0, 8.0)],
        ),
    ]
}

impl Device {
    /// The next message: a JSON object with both values.
    fn measure(&mut self) -> String {
        let [first, second] = &mut self.fields;
        json!({ (first.name): first.next(), (second.name): second.next() }).to_string()
    }
}

impl Field {
    fn new(name: &'static str, mean: f64, spread: f64) -> Self {
        Self { name, mean, spread, value: mean }
    }

    fn next(&mut self) -> f64 {
        let step = rand::random_range(-0.3..0.3) * self.spread;
        self.value += step + (self.mean - self.value) * 0.05;
        (self.value * 10.0).round() / 10.0
    }
}
