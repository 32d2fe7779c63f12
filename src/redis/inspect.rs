//! Inspects a Redis without changing anything there: what the user may do, and which limits apply.

use std::time::Duration;

use futures_util::StreamExt;
use redis::{ProtocolVersion, aio::PubSub};
use tokio::time::{Instant, timeout};

use super::{
    connection::{Commands, STEP_TIMEOUT, dial, explain, in_time, is_denied, login},
    identity::{Identity, Role},
    probe::{covers, new_channel},
};
use crate::config::RedisAddress;

/// The result of an inspection.
pub struct Inspection {
    /// Redis' version; `None` if the user may not run `INFO`.
    pub version: Option<String>,
    /// The server is the embedded broker of a Roomcast.
    pub embedded: bool,
    /// The server is a Sentinel.
    pub sentinel: bool,
    /// Master or replica.
    pub role: Role,
    /// Patterns that the user may not subscribe to.
    pub refused: Vec<String>,
    /// The result of a probe.
    pub echo: Echo,
    /// The backlog at which Redis ends a subscription; `None` if the user may not read it.
    pub buffer: Option<BufferLimit>,
}

/// The result of a probe, which is a message that Roomcast publishes and also receives.
pub enum Echo {
    /// The probe came back after this time.
    Heard(Duration),
    /// The probe did not come back in time.
    Lost,
    /// The user may not publish it.
    Denied,
    /// No permitted pattern covers the probe's channel, so none was published.
    NotCovered,
}

/// Redis' `client-output-buffer-limit pubsub`; 0 means no limit.
#[derive(Debug, PartialEq)]
pub struct BufferLimit {
    /// Redis ends a subscription with more backlog than this at once. In bytes.
    pub hard: u64,
    /// Redis ends a subscription with more backlog than this for `soft_seconds`. In bytes.
    pub soft: u64,
    /// In seconds.
    pub soft_seconds: u64,
}

/// Subscribes to the patterns and publishes a probe, on connections of its own. The probe is
/// published at `publish_host` if there is one, otherwise at `address`.
///
/// # Errors
/// If a connection or command fails; each error names the setting to check. Missing permissions are
/// part of the result instead.
pub async fn inspect(
    address: &RedisAddress,
    publish_host: Option<&RedisAddress>,
    patterns: &[String],
) -> anyhow::Result<Inspection> {
    let stream = dial(address, None).await?.stream;
    let login = login(address, ProtocolVersion::RESP2).await?;
    let mut session = in_time(address, PubSub::new(&login, stream)).await?;
    let mut commands = Commands::connect(address, None).await?;
    let identity = in_time(address, Identity::ask(&mut commands)).await?;
    let (mut permitted, mut refused) = (Vec::new(), Vec::new());
    for pattern in patterns {
        match timeout(STEP_TIMEOUT, session.psubscribe(pattern)).await {
            Ok(Err(error)) if is_denied(&error) => refused.push(pattern.clone()),
            Ok(Err(error)) => return Err(explain(address, error)),
            Ok(Ok(())) => permitted.push(pattern.clone()),
            Err(_) => return Err(super::connection::no_answer(address)),
        }
    }
    let echo = if identity.is_sentinel || !covers(&permitted, &new_channel()) {
        Echo::NotCovered
    } else {
        match publish_host {
            Some(host) => echo(host, &mut Commands::connect(host, None).await?, session).await?,
            None => echo(address, &mut commands, session).await?,
        }
    };
    // Without permission for CONFIG, the user can still subscribe.
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg("client-output-buffer-limit");
    let limit = in_time(address, commands.ask::<Vec<String>>(&command)).await.ok();
    Ok(Inspection {
        version: identity.version,
        embedded: identity.is_embedded,
        sentinel: identity.is_sentinel,
        role: identity.replication.role,
        refused,
        echo,
        buffer: limit.and_then(|answer| buffer_limit(answer.get(1)?)),
    })
}

/// Publishes a probe over `commands` and waits for it on `session`. Errors name `address`.
async fn echo(
    address: &RedisAddress,
    commands: &mut Commands,
    mut session: PubSub,
) -> anyhow::Result<Echo> {
    let channel = new_channel();
    let begun = Instant::now();
    match timeout(STEP_TIMEOUT, commands.ask::<i64>(redis::cmd("PUBLISH").arg(&channel).arg("")))
        .await
    {
        Ok(Ok(_)) => {}
        Ok(Err(error)) if is_denied(&error) => return Ok(Echo::Denied),
        Ok(Err(error)) => return Err(explain(address, error)),
        Err(_) => return Err(super::connection::no_answer(address)),
    }
    let ours = session
        .on_message()
        .filter(|message| futures_util::future::ready(message.get_channel_name() == channel));
    let mut ours = std::pin::pin!(ours);
    Ok(match timeout(STEP_TIMEOUT, ours.next()).await {
        Ok(Some(_)) => Echo::Heard(begun.elapsed()),
        Ok(None) | Err(_) => Echo::Lost,
    })
}

/// Reads the limit of subscribers from a value such as
/// `normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60`.
fn buffer_limit(text: &str) -> Option<BufferLimit> {
    let mut words = text.split_whitespace().skip_while(|word| *word != "pubsub").skip(1);
    let mut next = || words.next()?.parse().ok();
    Some(BufferLimit { hard: next()?, soft: next()?, soft_seconds: next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_subscribers_is_found_among_those_of_other_clients() {
        let text = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        let limit = BufferLimit { hard: 32 << 20, soft: 8 << 20, soft_seconds: 60 };
        assert_eq!(buffer_limit(text), Some(limit));
        assert_eq!(buffer_limit("normal 0 0 0"), None);
    }
}
