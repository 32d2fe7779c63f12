//! The way to a Redis, and what to say when there is none.

use std::{io, time::Duration};

use anyhow::anyhow;
use redis::{
    Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisConnectionInfo, RedisError,
    ServerErrorKind,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::config::{RedisAddress, Transport};

/// For name lookup, TCP, TLS and AUTH together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The kernel's own probes, for a peer that vanished while we had nothing to send.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// How long whoever listens at the default port has to answer when we look for a Redis there.
const DETECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether something at this address speaks RESP; also a Redis that wants a password first.
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

/// A client that has not connected yet.
pub fn client(address: &RedisAddress) -> Result<Client, RedisError> {
    let target = match address.transport.clone() {
        Transport::Tcp { host, port, tls: false } => ConnectionAddr::Tcp(host, port),
        Transport::Tcp { host, port, tls: true } => {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        }
        Transport::Unix(path) => ConnectionAddr::Unix(path),
    };
    let mut login = RedisConnectionInfo::default();
    if let Some(username) = &address.username {
        login = login.set_username(username);
    }
    if let Some(password) = &address.password {
        login = login.set_password(password.expose());
    }
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    let target = target.into_connection_info()?;
    let target = target.set_redis_settings(login).set_tcp_settings(tcp);
    Client::open(target)
}

/// One line that says which setting to look at.
pub fn explain(address: &RedisAddress, error: RedisError) -> anyhow::Error {
    let text = error.to_string();
    let what = match error.kind() {
        _ if text.contains("NOAUTH") => "wants a password: set REDIS_PASSWORD".to_owned(),
        ErrorKind::AuthenticationFailed => {
            "refused the password: check REDIS_PASSWORD and REDIS_USERNAME".to_owned()
        }
        ErrorKind::Server(ServerErrorKind::NoPerm) => format!(
            "does not permit this: check REDIS_CHANNELS and the user's ACL in Redis ({text})"
        ),
        _ if address.is_tls() && (text.contains("ertificate") || text.contains("TLS")) => {
            format!("fails the TLS handshake: check REDISHOST (rediss://) ({text})")
        }
        ErrorKind::Parse => "does not speak Redis' protocol: check REDISHOST".to_owned(),
        _ if error.is_io_error() => format!("is out of reach: check REDISHOST ({text})"),
        _ => format!("answers with an error: {text}"),
    };
    anyhow!("Redis at {address} {what}")
}

/// The same for silence.
pub fn no_answer(address: &RedisAddress, after: Duration) -> anyhow::Error {
    let hint = if address.is_tls() { " and whether it speaks TLS there" } else { "" };
    let after = after.as_secs();
    anyhow!("Redis at {address} gave no answer within {after} s: check REDISHOST{hint}")
}
