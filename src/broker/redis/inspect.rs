//! A look at a Redis, without changing anything there: what we may do, and what it does to us.

use std::time::Duration;

use futures_util::StreamExt;
use redis::{FromRedisValue, RedisResult};
use tokio::time::{Instant, timeout};

use super::{
    PROBE_TIMEOUT, Publisher,
    connection::{CONNECT_TIMEOUT, client, explain, no_answer},
    probe::{covers, is_denied, new_channel},
};
use crate::config::RedisAddress;

/// What a Redis lets us do.
pub struct Inspection {
    /// Its version, where it is told.
    pub version: Option<String>,
    /// It is the embedded broker of a roomcast.
    pub embedded: bool,
    /// Patterns that the user may not subscribe to.
    pub refused: Vec<String>,
    /// What becomes of a probe.
    pub echo: Echo,
    /// When Redis ends a subscription that is behind; `None` = not told.
    pub buffer: Option<BufferLimit>,
}

/// What becomes of a probe that is published to ourselves.
pub enum Echo {
    /// It came back after this time.
    Heard(Duration),
    /// It did not.
    Lost,
    /// The user may not publish it.
    Denied,
    /// No pattern covers it, so none was published.
    NotCovered,
}

/// Redis' `client-output-buffer-limit pubsub`, in bytes; 0 = none.
#[derive(Debug, PartialEq)]
pub struct BufferLimit {
    /// More than this, and the subscription is ended at once.
    pub hard: u64,
    /// More than this for the time that follows, and it is ended.
    pub soft: u64,
    /// In seconds.
    pub soft_seconds: u64,
}

/// Subscribes and publishes a probe, on connections of its own. An error says which setting to
/// look at.
pub async fn inspect(address: &RedisAddress, patterns: &[String]) -> anyhow::Result<Inspection> {
    let connect = async { client(address)?.get_async_pubsub().await };
    let mut session = in_time(address, connect).await?.map_err(|error| explain(address, error))?;
    let (mut permitted, mut refused) = (Vec::new(), Vec::new());
    for pattern in patterns {
        match in_time(address, session.psubscribe(pattern)).await? {
            Ok(()) => permitted.push(pattern.clone()),
            Err(error) if is_denied(&error) => refused.push(pattern.clone()),
            Err(error) => return Err(explain(address, error)),
        }
    }
    let mut publisher = Publisher::connect(address).await?;
    let channel = new_channel();
    let echo = if covers(&permitted, &channel) {
        let begun = Instant::now();
        match in_time(address, publisher.send(&channel, &[])).await? {
            Ok(_) => {
                let messages = session.on_message();
                let mut ours = messages.filter(|message| {
                    futures_util::future::ready(message.get_channel_name() == channel)
                });
                match timeout(PROBE_TIMEOUT, ours.next()).await {
                    Ok(Some(_)) => Echo::Heard(begun.elapsed()),
                    Ok(None) | Err(_) => Echo::Lost,
                }
            }
            Err(error) if is_denied(&error) => Echo::Denied,
            Err(error) => return Err(explain(address, error)),
        }
    } else {
        Echo::NotCovered
    };
    // Whoever may not ask these can still watch.
    let about: Option<String> = told(address, &mut publisher, &["INFO", "server"]).await;
    let about = about.unwrap_or_default();
    let field = |name: &str| {
        about.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::to_owned)
    };
    let limit = ["CONFIG", "GET", "client-output-buffer-limit"];
    let limit: Option<Vec<String>> = told(address, &mut publisher, &limit).await;
    Ok(Inspection {
        version: field("redis_version"),
        embedded: field("roomcast_embedded").is_some(),
        refused,
        echo,
        buffer: limit.and_then(|answer| buffer_limit(answer.get(1)?)),
    })
}

async fn told<T: FromRedisValue>(
    address: &RedisAddress,
    publisher: &mut Publisher,
    words: &[&str],
) -> Option<T> {
    let mut command = redis::Cmd::new();
    words.iter().for_each(|word| {
        command.arg(word);
    });
    in_time(address, publisher.ask(&command)).await.ok()?.ok()
}

/// `normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60`.
fn buffer_limit(text: &str) -> Option<BufferLimit> {
    let mut words = text.split_whitespace().skip_while(|word| *word != "pubsub").skip(1);
    let mut next = || words.next()?.parse().ok();
    Some(BufferLimit { hard: next()?, soft: next()?, soft_seconds: next()? })
}

/// An answer, unless it is silence.
async fn in_time<T>(
    address: &RedisAddress,
    answer: impl Future<Output = RedisResult<T>>,
) -> anyhow::Result<RedisResult<T>> {
    timeout(CONNECT_TIMEOUT, answer).await.map_err(|_| no_answer(address, CONNECT_TIMEOUT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_found_among_those_of_other_clients() {
        let text = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        let limit = BufferLimit { hard: 32 << 20, soft: 8 << 20, soft_seconds: 60 };
        assert_eq!(buffer_limit(text), Some(limit));
        assert_eq!(buffer_limit("normal 0 0 0"), None);
    }
}
