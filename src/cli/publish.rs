//! `roomcast publish`: what `redis-cli publish` does, where there is none.

use std::process::ExitCode;

use anyhow::{bail, ensure};
use clap::Args;
use roomcast::{
    channel,
    config::{Config, RedisAddress, Source},
    redis::Publisher,
};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, BufReader, stdin};

/// What ends a line of the input, `\r\n` or `\n`.
const LINE_END: usize = 2;

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
    /// Publishes one payload, or line after line until the input ends. What a server with the same
    /// settings would drop is refused: a line of the input by itself, the others are published.
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
    format!("not published: a payload has {max} bytes at most (MAX_PAYLOAD)")
}

/// The next line without its end, or the beginning of one that has more than `max` bytes; `None` at
/// the end of the input. The rest of such a line is skipped without being kept.
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

/// Where to publish. A broker that another process embeds is a Redis, too.
pub fn address(config: &Config) -> RedisAddress {
    if let Some(address) = &config.publish_host {
        return address.clone();
    }
    match &config.source {
        Source::Redis(address) | Source::Detect(address) => address.clone(),
        Source::Embedded(port) => RedisAddress::tcp("localhost", *port),
    }
}
