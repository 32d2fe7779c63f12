//! Publishes messages on a separate connection.

use std::net::SocketAddr;

use redis::RedisError;

use super::connection::{Commands, explain};
use crate::config::RedisAddress;

/// A connection that only publishes. Clones share it; it closes when the last one is dropped.
#[derive(Clone)]
pub struct Publisher {
    commands: Commands,
    address: RedisAddress,
}

impl Publisher {
    /// Connects and logs in.
    ///
    /// # Errors
    /// If a step fails or takes too long; each error names the setting to check.
    pub async fn connect(address: &RedisAddress) -> anyhow::Result<Self> {
        Self::connect_to(address, None).await
    }

    /// Connects and logs in; with `peer`, to that address instead of looking up the name.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_to(
        address: &RedisAddress,
        peer: Option<SocketAddr>,
    ) -> anyhow::Result<Self> {
        let commands = Commands::connect(address, peer).await?;
        Ok(Self { commands, address: address.clone() })
    }

    /// Publishes a payload and returns the number of subscribers that Redis reports.
    ///
    /// # Errors
    /// If the connection fails or Redis answers with an error; names the setting to check.
    pub async fn publish(&mut self, channel: &str, payload: &[u8]) -> anyhow::Result<u64> {
        self.send(channel, payload).await.map_err(|error| explain(&self.address, error))
    }

    /// Publishes channels and payloads, in this order and with one round trip.
    ///
    /// # Errors
    /// As [`Self::publish`]; some of the messages may have been published nevertheless.
    pub async fn publish_all<'a>(
        &mut self,
        messages: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> anyhow::Result<()> {
        let mut commands = redis::pipe();
        for (channel, payload) in messages {
            commands.cmd("PUBLISH").arg(channel).arg(payload).ignore();
        }
        self.commands.ask_all(&commands).await.map_err(|error| explain(&self.address, error))
    }

    /// As [`Self::publish`], but returns the original error, so that the caller can distinguish its
    /// kinds.
    pub(super) async fn send(&mut self, channel: &str, payload: &[u8]) -> Result<u64, RedisError> {
        self.commands.ask(redis::cmd("PUBLISH").arg(channel).arg(payload)).await
    }
}
