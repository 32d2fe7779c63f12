//! `roomcast publish`: publishes like `redis-cli publish`, for machines without redis-cli.

use std::process::ExitCode;

use anyhow::{bail, ensure};
use clap::Args;
use roomcast::{
    channel,
    config::{Config, RedisAddress, Source},
    redis::Publisher,
};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, BufReader, stdin};

/// Maximum length of a line end in bytes: `\r\n` or `\n`.
const LINE_END: usize = 2;

/// Publish on a channel and print the number of subscribers that Redis counted.
#[derive(Args)]
pub struct Publish {
    /// The channel, which is also the name of the room
    channel: String,
    /// The payload; `-` publishes each line of standard input
    #[arg(default_value = "-", allow_hyphen_values = true)]
    payload: String,
}

impl Publish {
    /// Publishes one payload, or each line of standard input until it ends. A message that a server
    /// with the same settings would drop is refused. A refused line does not affect the other
    /// lines, but the exit code is 1.
    ///
    /// # Errors
    /// The channel or the only payload is refused, or Redis or standard input fails.
    pub async fn run(&self, config: &Config) -> anyhow::Result<ExitCode> {
        if let Err(problem) = channel::check(&self.channel) {
            bail!("not published: {problem}");
        }
        let max = config.max_payload;
        let single = self.payload != "-";
        ensure!(!single || self.payload.len() <= max, too_large(max));
        let mut publisher = Publisher::connect(&address(config)).await?;
        if single {
            self.one(&mut publisher, self.payload.as_bytes()).await?;
            return Ok(ExitCode::SUCCESS);
        }
        let (mut input, mut line, mut code) = (BufReader::new(stdin()), vec![], ExitCode::SUCCESS);
        for number in 1.. {
            match next_line(&mut input, &mut line, max).await? {
                None => break,
                Some(payload) if payload.len() <= max => self.one(&mut publisher, payload).await?,
                Some(_) => {
                    eprintln!("roomcast: line {number}: {}", too_large(max));
                    code = ExitCode::FAILURE;
                }
            }
        }
        Ok(code)
    }

    async fn one(&self, publisher: &mut Publisher, payload: &[u8]) -> anyhow::Result<()> {
        let count = publisher.publish(&self.channel, payload).await?;
        println!("{count} subscriber{}", if count == 1 { "" } else { "s" });
        Ok(())
    }
}

fn too_large(max: usize) -> String {
    format!("not published: the payload is larger than {max} bytes (MAX_PAYLOAD)")
}

/// Reads the next line, without its line end; `None` at the end of the input. Of a line with more
/// than `max` bytes, only the beginning is returned, which is longer than `max`; the rest is
/// skipped without being buffered.
async fn next_line<'a>(
    input: &mut (impl AsyncBufRead + Unpin),
    line: &'a mut Vec<u8>,
    max: usize,
) -> anyhow::Result<Option<&'a [u8]>> {
    line.clear();
    let most = max + LINE_END;
    if input.take(most as u64).read_until(b'\n', line).await? == 0 {
        return Ok(None);
    }
    let whole = line.strip_suffix(b"\n");
    if whole.is_none() && line.len() == most {
        skip_line(input).await?;
    }
    let payload = whole.unwrap_or(line);
    Ok(Some(payload.strip_suffix(b"\r").unwrap_or(payload)))
}

async fn skip_line(input: &mut (impl AsyncBufRead + Unpin)) -> anyhow::Result<()> {
    loop {
        let read = input.fill_buf().await?;
        let end = read.iter().position(|&byte| byte == b'\n');
        let (taken, over) =
            (end.map_or(read.len(), |end| end + 1), end.is_some() || read.is_empty());
        input.consume(taken);
        if over {
            return Ok(());
        }
    }
}

/// The Redis to publish to. For an embedded broker, this is the one of a server in another process,
/// which is reached like a Redis.
pub fn address(config: &Config) -> RedisAddress {
    if let Some(address) = &config.publish_host {
        return address.clone();
    }
    match &config.source {
        Source::Redis(address) | Source::Detect(address) => address.clone(),
        Source::Embedded(port) => RedisAddress::tcp("localhost", *port),
    }
}
