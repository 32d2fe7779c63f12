//! Publishes, on a connection of its own.

use std::time::Duration;

use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, RedisError};
use tokio::time::timeout;

use super::connection::{CONNECT_TIMEOUT, client, explain, no_answer};
use crate::config::RedisAddress;

/// How long Redis may take to answer a command.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Publishes on a connection of its own; clones share it.
#[derive(Clone)]
pub struct Publisher {
    connection: redis::aio::MultiplexedConnection,
    address: RedisAddress,
}

impl Publisher {
    /// Connects and authenticates.
    pub async fn connect(address: &RedisAddress) -> anyhow::Result<Self> {
        match timeout(CONNECT_TIMEOUT, Self::open(address)).await {
            Ok(result) => result.map_err(|error| explain(address, error)),
            Err(_) => Err(no_answer(address, CONNECT_TIMEOUT)),
        }
    }

    /// As [`Self::connect`], for who has to tell errors apart.
    pub(super) async fn open(address: &RedisAddress) -> Result<Self, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT));
        let client = client(address)?;
        let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(Self { connection, address: address.clone() })
    }

    /// Publishes a payload and returns how many subscribers Redis counted.
    pub async fn publish(&mut self, channel: &str, payload: &[u8]) -> anyhow::Result<u64> {
        self.send(channel, payload).await.map_err(|error| explain(&self.address, error))
    }

    /// Publishes payloads, each with its channel, in this order and with one round trip.
    pub async fn publish_all<'a>(
        &mut self,
        messages: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> anyhow::Result<()> {
        let mut commands = redis::pipe();
        for (channel, payload) in messages {
            commands.cmd("PUBLISH").arg(channel).arg(payload).ignore();
        }
        let result = commands.query_async(&mut self.connection).await;
        result.map_err(|error| explain(&self.address, error))
    }

    /// As [`Self::publish`], for who has to tell errors apart.
    pub(super) async fn send(&mut self, channel: &str, payload: &[u8]) -> Result<u64, RedisError> {
        self.ask(redis::cmd("PUBLISH").arg(channel).arg(payload)).await
    }

    /// Any other question.
    pub(super) async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, RedisError> {
        command.query_async(&mut self.connection).await
    }
}
