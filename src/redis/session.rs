//! The watched connection: it subscribes, and answers questions about the server.
//!
//! With RESP3, one connection does both, so that every answer is about the server whose messages
//! arrive. RESP2 allows no questions on a connection that subscribes; they are asked on a second
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

/// A connection that can be subscribed.
pub struct Session {
    /// Asks the server that is watched.
    pub commands: Commands,
    /// Which of the name's addresses it leads to.
    pub peer: Option<SocketAddr>,
    protocol: Protocol,
}

enum Protocol {
    Resp3(MultiplexedConnection),
    Resp2 {
        sink: PubSubSink,
        /// Sent when the gap has been queued, so that messages come after it.
        begin: Option<oneshot::Sender<()>>,
    },
}

/// Reads the connection. It has to be polled for anything to arrive, and ends with the connection.
pub type Reading = BoxFuture<'static, ()>;

impl Session {
    /// Connects and logs in: by RESP3, or by RESP2 where the server does not have that.
    ///
    /// # Errors
    /// Each names the setting to look at.
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
        // How long an answer may take is decided where the question is asked: messages come first.
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

    /// Whether questions are asked on the connection that subscribes.
    pub fn is_one_connection(&self) -> bool {
        matches!(self.protocol, Protocol::Resp3(_))
    }

    /// Subscribes to all patterns at once.
    ///
    /// # Errors
    /// Those of Redis, such as a pattern that the user may not see.
    pub async fn subscribe(&mut self, intake: &Intake) -> Result<(), RedisError> {
        match &mut self.protocol {
            // The push sender sees the confirmation, in order with the messages.
            Protocol::Resp3(connection) => connection.psubscribe(intake.patterns()).await,
            Protocol::Resp2 { sink, begin } => {
                sink.psubscribe(intake.patterns()).await?;
                intake.confirmed();
                if let Some(begin) = begin.take() {
                    // With the reader gone, the session is over anyway.
                    let _ = begin.send(());
                }
                Ok(())
            }
        }
    }

    /// Asks for a sign of life on the connection that subscribes.
    ///
    /// # Errors
    /// Any error that Redis answers, such as `-MASTERDOWN`, except that the user may not ask: then
    /// the server has read the question too.
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

/// Whether HELLO failed because the server, or a proxy before it, does not know it: some say so,
/// some close the connection.
fn speaks_no_resp3(error: &RedisError) -> bool {
    let text = error.to_string();
    let is_login = error.kind() == ErrorKind::AuthenticationFailed
        || ["NOAUTH", "WRONGPASS", "NOPERM"].iter().any(|code| text.contains(code));
    !is_login && !error.is_timeout() && error.kind() != ErrorKind::Parse
}
