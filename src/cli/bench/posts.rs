//! Publishes by HTTP: one POST per message, pipelined over a few connections.

use anyhow::{Context, bail, ensure};
use futures_util::future::try_join_all;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use url::Url;

use super::{
    answer::{self, Answer},
    publishing::Message,
    target::{ROOM, authority, in_room, is_tls, name, reach},
    trust::Trust,
};

/// Size of the buffer that answers are read into, in bytes.
const BUFFER: usize = 16 << 10;

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Connections to a server that accepts messages by POST. All messages of a room use the same
/// connection, so that their order is kept.
pub struct Posts {
    connections: Vec<Connection>,
    url: Url,
    token: Option<String>,
}

struct Connection {
    io: Box<dyn Io>,
    requests: Vec<u8>,
    expected: usize,
    answers: Vec<u8>,
}

impl Posts {
    /// Opens `connections` connections to `url`, whose path contains `{room}`.
    ///
    /// # Errors
    /// If the path has no `{room}`, or a connection cannot be established.
    pub async fn connect(
        url: Url,
        connections: usize,
        token: Option<String>,
        trust: &Trust,
    ) -> anyhow::Result<Self> {
        ensure!(
            in_room(url.path(), "") != url.path(),
            "--publish {url}: write {ROOM} where the channel's name goes"
        );
        let addr = reach(&url).await?;
        let tls = if is_tls(&url) { Some((trust.config()?, name(&url)?)) } else { None };
        let connect = async || {
            let stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            let io: Box<dyn Io> = match &tls {
                None => Box::new(stream),
                Some((config, name)) => {
                    let tls = TlsConnector::from(config.clone());
                    Box::new(tls.connect(name.clone(), stream).await?)
                }
            };
            anyhow::Ok(Connection { io, requests: Vec::new(), expected: 0, answers: Vec::new() })
        };
        let connecting = (0..connections).map(|_| connect());
        let connections =
            try_join_all(connecting).await.with_context(|| format!("cannot connect to {url}"))?;
        Ok(Self { connections, url, token })
    }

    /// POSTs messages, and waits until each has been answered.
    ///
    /// # Errors
    /// If an answer's status is not 2xx, or a connection closes.
    ///
    /// # Cancel safety
    /// Not cancel safe: requests may be sent in part.
    pub async fn publish(&mut self, messages: &[Message]) -> anyhow::Result<()> {
        let count = self.connections.len();
        for Message { room, channel, payload } in messages {
            let connection = &mut self.connections[*room as usize % count];
            let path = in_room(self.url.path(), channel);
            let mut head = format!("POST {path} HTTP/1.1\r\nhost: {}\r\n", authority(&self.url));
            if let Some(token) = &self.token {
                head += &format!("authorization: Bearer {token}\r\n");
            }
            head += &format!("content-length: {}\r\n\r\n", payload.len());
            connection.requests.extend_from_slice(head.as_bytes());
            connection.requests.extend_from_slice(payload);
            connection.expected += 1;
        }
        try_join_all(self.connections.iter_mut().map(Connection::exchange)).await?;
        Ok(())
    }
}

impl Connection {
    /// Sends the pending requests and reads their answers, both at the same time.
    async fn exchange(&mut self) -> anyhow::Result<()> {
        let Self { io, requests, expected, answers } = self;
        let (mut from, mut to) = split(io);
        let sending = async { to.write_all(requests).await.context("a POST could not be sent") };
        let reading = async {
            let mut buffer = [0; BUFFER];
            while *expected > 0 {
                while let Some(answer) = Answer::read(answers)
                    && let Some(end) = answer.end(answers)
                {
                    if !(200..300).contains(&answer.status) {
                        bail!("a POST was refused: {}", answer::explain(answer.status));
                    }
                    answers.drain(..end);
                    *expected -= 1;
                }
                if *expected > 0 {
                    let read = from.read(&mut buffer).await.context("a POST was not answered")?;
                    ensure!(read > 0, "the server closed a connection before it answered a POST");
                    answers.extend_from_slice(&buffer[..read]);
                }
            }
            Ok(())
        };
        tokio::try_join!(sending, reading)?;
        requests.clear();
        Ok(())
    }
}
