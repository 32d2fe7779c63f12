//! `roomcast publish`: what `redis-cli publish` does, for who has none.

use std::process::ExitCode;

use clap::Args;
use roomcast::{
    broker::redis::Publisher,
    config::{Config, RedisAddress, Source},
};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

/// Publish on a channel and print how many subscribers Redis counted.
#[derive(Args)]
pub struct Publish {
    /// The channel, which is also the room's name
    channel: String,
    /// What to publish; `-` publishes each line of standard input
    #[arg(default_value = "-", allow_hyphen_values = true)]
    payload: String,
}

impl Publish {
    /// Publishes one payload, or line after line until the input ends.
    pub async fn run(&self, config: &Config) -> anyhow::Result<ExitCode> {
        let address = address(&config.source);
        let mut publisher = Publisher::connect(&address).await?;
        if self.payload != "-" {
            self.one(&mut publisher, self.payload.as_bytes()).await?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut input = BufReader::new(stdin());
        let mut line = Vec::new();
        while input.read_until(b'\n', &mut line).await? > 0 {
            let payload = line.strip_suffix(b"\n").unwrap_or(&line);
            let payload = payload.strip_suffix(b"\r").unwrap_or(payload);
            self.one(&mut publisher, payload).await?;
            line.clear();
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn one(&self, publisher: &mut Publisher, payload: &[u8]) -> anyhow::Result<()> {
        println!("{}", publisher.publish(&self.channel, payload).await?);
        Ok(())
    }
}

/// Where to publish: also a broker that another process embeds is a Redis for us.
pub fn address(source: &Source) -> RedisAddress {
    match source {
        Source::Redis(address) | Source::Detect(address) => address.clone(),
        Source::Embedded(port) => RedisAddress::tcp("localhost", *port),
    }
}
