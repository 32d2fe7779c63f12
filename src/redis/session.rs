//! The watched connection: subscribes, and asks the server for its state.
//!
//! With RESP3, one connection does both, so every answer comes from the server whose messages
//! arrive. RESP2 does not allow other commands on a subscribing connection; they use a second
//! connection to the same resolved address.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::{BoxFuture, FutureExt},
};
use redis::{
    AsyncConnectionConfig, ErrorKind, ProtocolVersion, RedisError, Value,
    aio::{MultiplexedConnection, PubSub, PubSubSink},
};
use tokio::{sync::oneshot, time::timeout};

use super::{
    connection::{
        Commands, Dialed, STEP_TIMEOUT, dial, explain, in_time, is_denied, login, no_answer,
    },
    intake::Intake,
};
use crate::config::RedisAddress;

/// One session of the subscription: its connection, or its two connections with RESP2.
///
/// [`Session::open`] connects and returns a [`Reading`], which the caller must poll beside the
/// session. When the connection is lost, `Reading` ends, and the caller drops both.
pub struct Session {
    /// Sends commands to the watched server.
    pub commands: Commands,
    /// The address of the watched server; `None` for a Unix socket.
    pub peer: Option<SocketAddr>,
    protocol: Protocol,
}

enum Protocol {
    Resp3(MultiplexedConnection),
    Resp2 {
        sink: PubSubSink,
        /// Sent when the gap has been queued, so that reading of messages starts after it.
        begin: Option<oneshot::Sender<()>>,
    },
}

/// Reads the connection. It must be polled for anything to arrive, and ends when the connection
/// does.
pub type Reading = BoxFuture<'static, ()>;

impl Session {
    /// Connects and logs in, with RESP3, or with RESP2 if the server does not support RESP3.
    ///
    /// # Errors
    /// If a step fails or takes too long; each error names the setting to check.
    pub async fn open(
        address: &RedisAddress,
        intake: &Arc<Intake>,
    ) -> anyhow::Result<(Self, Reading)> {
        let connection = dial(address, None).await?;
        match Self::resp3(address, intake.clone(), connection).await {
            Err(Problem::NoResp3) => {
                let connection = dial(address, None).await?;
                Self::resp2(address, intake.clone(), connection).await
            }
            Err(Problem::Other(error)) => Err(error),
            Ok(session) => Ok(session),
        }
    }

    async fn resp3(
        address: &RedisAddress,
        intake: Arc<Intake>,
        Dialed { stream, peer }: Dialed,
    ) -> Result<(Self, Reading), Problem> {
        let login = login(address, ProtocolVersion::RESP3).await?;
        let push = move |info| {
            intake.push(info);
            Ok::<_, Infallible>(())
        };
        // No time limit for answers here: an answer arrives after all messages sent before it, so
        // each caller sets its own limit.
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_push_sender(push);
        let connecting = MultiplexedConnection::new_with_config(&login, stream, config);
        let (connection, driver) = match timeout(STEP_TIMEOUT, connecting).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) if speaks_no_resp3(&error) => return Err(Problem::NoResp3),
            Ok(Err(error)) => return Err(explain(address, error).into()),
            Err(_) => return Err(no_answer(address).into()),
        };
        let commands = Commands::over(connection.clone());
        let protocol = Protocol::Resp3(connection);
        Ok((Self { commands, peer, protocol }, driver.boxed()))
    }

    async fn resp2(
        address: &RedisAddress,
        intake: Arc<Intake>,
        Dialed { stream, peer }: Dialed,
    ) -> anyhow::Result<(Self, Reading)> {
        let login = login(address, ProtocolVersion::RESP2).await?;
        let pubsub = in_time(address, PubSub::new(&login, stream)).await?;
        let commands = Commands::connect(address, peer).await?;
        let (sink, mut messages) = pubsub.split();
        let (begin, begun) = oneshot::channel();
        let reading = async move {
            if begun.await.is_err() {
                return;
            }
            while let Some(message) = messages.next().await {
                intake.pulse.beat();
                let channel = message.get_channel::<Bytes>().unwrap_or_default();
                let pattern = message.get_pattern::<Vec<u8>>().unwrap_or_default();
                let payload = Bytes::copy_from_slice(message.get_payload_bytes());
                intake.message(&pattern, channel, payload);
            }
        };
        let protocol = Protocol::Resp2 { sink, begin: Some(begin) };
        Ok((Self { commands, peer, protocol }, reading.boxed()))
    }

    /// Whether commands use the subscribing connection (RESP3).
    pub fn is_one_connection(&self) -> bool {
        matches!(self.protocol, Protocol::Resp3(_))
    }

    /// Subscribes to all patterns with one command.
    ///
    /// # Errors
    /// If the connection fails, or Redis answers with an error, for example because the user may
    /// not subscribe to one of the patterns.
    pub async fn subscribe(&mut self, intake: &Intake) -> Result<(), RedisError> {
        match &mut self.protocol {
            // The push sender receives the confirmation, in order with the messages.
            Protocol::Resp3(connection) => connection.psubscribe(intake.patterns()).await,
            Protocol::Resp2 { sink, begin } => {
                sink.psubscribe(intake.patterns()).await?;
                intake.confirmed();
                if let Some(begin) = begin.take() {
                    // If the reader is dropped, the session is over anyway.
                    let _ = begin.send(());
                }
                Ok(())
            }
        }
    }

    /// Sends PING on the subscribing connection and waits for the answer.
    ///
    /// # Errors
    /// If the connection fails, or Redis answers with an error such as `-MASTERDOWN`. `-NOPERM` is
    /// no error: it shows that the server has read the command.
    pub async fn ping(&mut self) -> Result<(), RedisError> {
        let answer = match &mut self.protocol {
            Protocol::Resp3(_) => self.commands.ask::<Value>(&redis::cmd("PING")).await,
            Protocol::Resp2 { sink, .. } => sink.ping::<Value>().await,
        };
        match answer.and_then(Value::extract_error) {
            Err(error) if !is_denied(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

enum Problem {
    NoResp3,
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// Whether HELLO failed because the server, or a proxy in front of it, does not support it: some
/// answer with an error, some close the connection.
fn speaks_no_resp3(error: &RedisError) -> bool {
    let text = error.to_string();
    let is_login = error.kind() == ErrorKind::AuthenticationFailed
        || ["NOAUTH", "WRONGPASS", "NOPERM"].iter().any(|code| text.contains(code));
    !is_login && !error.is_timeout() && error.kind() != ErrorKind::Parse
}
