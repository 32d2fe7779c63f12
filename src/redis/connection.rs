//! Connects to a Redis step by step, and turns failures into errors that name the setting to check.
//!
//! Name lookup, TCP, TLS and the login each have their own [`STEP_TIMEOUT`]: over a slow link, all
//! of them together may take longer.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use futures_util::{StreamExt, stream::FuturesUnordered};
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, ProtocolVersion, RedisConnectionInfo,
    RedisError, ServerErrorKind, aio::MultiplexedConnection,
};
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream, lookup_host},
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::tls;
use crate::config::{Credential, RedisAddress, Transport};

/// Time limit of each step of a connection and of each command.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle time and interval of TCP keep-alive, which detects a peer that vanished while there was
/// nothing to send.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Time limit for an answer when the server checks whether a Redis listens at the default port.
const DETECT_TIMEOUT: Duration = Duration::from_secs(1);
/// If a name has several addresses, the time after which the next one is tried even though the
/// previous one has not answered yet (RFC 8305 recommends 250 ms).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// The byte stream of a connection: TCP, TLS or a Unix socket.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that is not logged in yet.
pub struct Dialed {
    /// The byte stream, after the TLS handshake if there is one.
    pub stream: Box<dyn Stream>,
    /// The address of the peer; `None` for a Unix socket.
    pub peer: Option<SocketAddr>,
}

/// A connection for commands. Clones share it; it closes when the last one is dropped.
#[derive(Clone)]
pub struct Commands {
    connection: MultiplexedConnection,
    /// The task that reads and writes; `None` if the owner of the connection does that.
    _driver: Option<Arc<AbortOnDropHandle<()>>>,
}

impl Commands {
    /// Commands over a connection that its owner reads and writes.
    pub fn over(connection: MultiplexedConnection) -> Self {
        Self { connection, _driver: None }
    }

    /// Connects and logs in; with `peer`, to that address instead of looking up the name.
    ///
    /// # Errors
    /// If a step fails or takes longer than [`STEP_TIMEOUT`]; each error names the setting to
    /// check.
    pub async fn connect(address: &RedisAddress, peer: Option<SocketAddr>) -> anyhow::Result<Self> {
        let Dialed { stream, .. } = dial(address, peer).await?;
        let login = login(address, ProtocolVersion::RESP2).await?;
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(STEP_TIMEOUT));
        let connecting = MultiplexedConnection::new_with_config(&login, stream, config);
        let (connection, driver) = in_time(address, connecting).await?;
        let driver = Arc::new(AbortOnDropHandle::new(tokio::spawn(driver)));
        Ok(Self { connection, _driver: Some(driver) })
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// If the connection fails, or Redis answers with an error or with another type.
    pub async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, RedisError> {
        command.query_async(&mut self.connection).await
    }

    /// Sends several commands and waits until all of them are answered; the answers are dropped.
    ///
    /// # Errors
    /// If the connection fails, or Redis answers any of them with an error.
    pub async fn ask_all(&mut self, commands: &redis::Pipeline) -> Result<(), RedisError> {
        commands.query_async(&mut self.connection).await
    }
}

/// Awaits a step with a time limit.
///
/// # Errors
/// The step's own error, or that it took longer than [`STEP_TIMEOUT`]; both name the setting to
/// check.
pub async fn in_time<T>(
    address: &RedisAddress,
    step: impl Future<Output = Result<T, RedisError>>,
) -> anyhow::Result<T> {
    match timeout(STEP_TIMEOUT, step).await {
        Ok(result) => result.map_err(|error| explain(address, error)),
        Err(_) => Err(no_answer(address)),
    }
}

/// Whether a server at this address speaks RESP. A Redis that requires a password counts as well.
pub async fn answers(address: &RedisAddress) -> bool {
    let Transport::Tcp { host, port, .. } = &address.transport else { return false };
    let ask = async {
        let mut stream = TcpStream::connect((host.as_str(), *port)).await?;
        stream.write_all(b"*1\r\n$4\r\nPING\r\n").await?;
        let first = stream.read_u8().await?;
        io::Result::Ok(matches!(first, b'+' | b'-'))
    };
    matches!(timeout(DETECT_TIMEOUT, ask).await, Ok(Ok(true)))
}

/// Connects, with TLS if the address requires it; with `peer`, to that address instead of looking
/// up the name.
///
/// # Errors
/// Each names the setting to check. [`is_refused`] distinguishes a refused connection.
pub async fn dial(address: &RedisAddress, peer: Option<SocketAddr>) -> anyhow::Result<Dialed> {
    match &address.transport {
        Transport::Unix(path) => {
            let stream = step(address, UnixStream::connect(path)).await?;
            Ok(Dialed { stream: Box::new(stream), peer: None })
        }
        Transport::Tcp { host, port, tls } => {
            let peers = match peer {
                Some(peer) => vec![peer],
                None => step(address, lookup_host((host.as_str(), *port))).await?.collect(),
            };
            let (stream, peer) = step(address, connect_to_any(peers)).await?;
            step(address, async { tune(&stream) }).await?;
            let stream: Box<dyn Stream> = if *tls {
                let reading = timeout(STEP_TIMEOUT, tls::client(&address.tls_files)).await;
                let late = |_| anyhow!("{}: the files for TLS did not open", address.setting);
                let client = reading.map_err(late)??;
                let name = ServerName::try_from(host.clone())
                    .with_context(|| format!("{}: not a valid name for TLS", address.setting))?;
                let handshake = TlsConnector::from(client).connect(name, stream);
                match timeout(STEP_TIMEOUT, handshake).await {
                    Ok(result) => Box::new(result.map_err(|error| untrusted(address, error))?),
                    Err(_) => return Err(no_answer(address)),
                }
            } else {
                Box::new(stream)
            };
            Ok(Dialed { stream, peer: Some(peer) })
        }
    }
}

/// The user name and the password. They are read anew for each connection, so that files can be
/// replaced while the server runs.
///
/// # Errors
/// If a credential cannot be read within [`STEP_TIMEOUT`]; the error names its setting.
pub async fn login(
    address: &RedisAddress,
    protocol: ProtocolVersion,
) -> anyhow::Result<RedisConnectionInfo> {
    let mut login = RedisConnectionInfo::default().set_protocol(protocol);
    if let Some(username) = &address.username {
        login = login.set_username(read(username).await?);
    }
    if let Some(password) = &address.password {
        login = login.set_password(read(password).await?);
    }
    Ok(login)
}

/// Reads a credential with a time limit: its file may be on a network share that does not answer.
async fn read(credential: &Credential) -> anyhow::Result<String> {
    let setting = credential.setting.clone();
    let credential = credential.clone();
    let reading = timeout(STEP_TIMEOUT, spawn_blocking(move || credential.read())).await;
    let secret =
        reading.map_err(|_| anyhow!("{setting}: the file could not be read in time"))??;
    Ok(secret.map_err(|problem| anyhow!("{setting}: {problem}"))?.expose().to_owned())
}

/// Connects to the first address that answers. After [`NEXT_ADDRESS_AFTER`], the next address is
/// tried beside the ones before.
async fn connect_to_any(peers: Vec<SocketAddr>) -> io::Result<(TcpStream, SocketAddr)> {
    let mut peers = peers.into_iter();
    let mut connecting = FuturesUnordered::new();
    let mut problem = io::Error::from(io::ErrorKind::NotFound);
    loop {
        if let Some(peer) = peers.next() {
            connecting.push(async move { (TcpStream::connect(peer).await, peer) });
        } else if connecting.is_empty() {
            return Err(problem);
        }
        // After a failure, the next address is tried at once.
        tokio::select! {
            Some((connected, peer)) = connecting.next() => match connected {
                Ok(stream) => return Ok((stream, peer)),
                Err(error) => problem = error,
            },
            () = sleep(NEXT_ADDRESS_AFTER), if peers.len() > 0 => {}
        }
    }
}

/// Sets `TCP_NODELAY` and keep-alive.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

async fn step<T>(
    address: &RedisAddress,
    step: impl Future<Output = io::Result<T>>,
) -> anyhow::Result<T> {
    match timeout(STEP_TIMEOUT, step).await {
        Ok(result) => result.with_context(|| {
            format!("Redis at {address} is out of reach: check {}", address.setting)
        }),
        Err(_) => Err(no_answer(address)),
    }
}

/// Whether the error is a refused connection or a missing Unix socket: nothing listens there, and
/// another attempt costs nothing.
pub fn is_refused(error: &anyhow::Error) -> bool {
    let refused = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
    };
    error.downcast_ref::<io::Error>().is_some_and(refused)
        || error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(refused))
}

/// Whether Redis denied a command because of the user's permissions (`-NOPERM`).
pub fn is_denied(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
}

/// Turns an error of Redis into one line that names the setting to check.
pub fn explain(address: &RedisAddress, error: RedisError) -> anyhow::Error {
    let setting = address.setting;
    let text = error.to_string();
    let what = match error.kind() {
        _ if text.contains("NOAUTH") => "wants a password: set REDIS_PASSWORD".to_owned(),
        _ if error.kind() == ErrorKind::AuthenticationFailed || text.contains("WRONGPASS") => {
            "refused the password: check REDIS_PASSWORD and REDIS_USERNAME".to_owned()
        }
        ErrorKind::Server(ServerErrorKind::NoPerm) => format!(
            "does not permit this: check REDIS_CHANNELS and the user's ACL in Redis ({text})"
        ),
        ErrorKind::Parse => format!("does not speak Redis' protocol: check {setting}"),
        _ if error.is_io_error() => format!("is out of reach: check {setting} ({text})"),
        _ => format!("answers with an error: {text}"),
    };
    anyhow!("Redis at {address} {what}")
}

fn untrusted(address: &RedisAddress, error: io::Error) -> anyhow::Error {
    let setting = address.setting;
    let hint = match &address.tls_files.ca {
        Some(_) => "REDIS_CA and REDIS_CERT",
        None => "REDIS_CA (the root to trust) and REDIS_CERT",
    };
    anyhow!("Redis at {address} fails the TLS handshake: check {setting}, {hint} ({error})")
}

/// The error for a step that took longer than [`STEP_TIMEOUT`].
pub fn no_answer(address: &RedisAddress) -> anyhow::Error {
    let hint = if address.is_tls() { " and whether it speaks TLS there" } else { "" };
    let (setting, after) = (address.setting, STEP_TIMEOUT.as_secs());
    anyhow!("Redis at {address} gave no answer within {after} s: check {setting}{hint}")
}
