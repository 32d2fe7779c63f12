//! Publishes, on a connection of its own.

use std::net::SocketAddr;

use redis::RedisError;

use super::connection::{Commands, explain};
use crate::config::RedisAddress;

/// Publishes on a connection of its own; clones share it.
#[derive(Clone)]
pub struct Publisher {
    commands: Commands,
    address: RedisAddress,
}

impl Publisher {
    /// Connects and authenticates.
    ///
    /// # Errors
    /// Each names the setting to look at.
    pub async fn connect(address: &RedisAddress) -> anyhow::Result<Self> {
        Self::connect_to(address, None).await
    }

    /// The same; with `peer`, to that address instead of looking up the name.
    ///
    /// # Errors
    /// Each names the setting to look at.
    pub async fn connect_to(
        address: &RedisAddress,
        peer: Option<SocketAddr>,
    ) -> anyhow::Result<Self> {
        let commands = Commands::connect(address, peer).await?;
        Ok(Self { commands, address: address.clone() })
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
        self.commands.ask_all(&commands).await.map_err(|error| explain(&self.address, error))
    }

    /// As [`Self::publish`], with an error that can be told from others.
    pub(super) async fn send(&mut self, channel: &str, payload: &[u8]) -> Result<u64, RedisError> {
        self.commands.ask(redis::cmd("PUBLISH").arg(channel).arg(payload)).await
    }
}
