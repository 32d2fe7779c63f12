//! The server that viewers connect to: its URL, address and protocol.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use clap::ValueEnum;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use url::Url;

use super::trust::Trust;

/// Time limit for connecting to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Path of Socket.IO, if the URL has none.
const SOCKET_IO: &str = "/socket.io/";
/// Placeholder for the room's name in a URL.
pub const ROOM: &str = "{room}";

/// The viewers' protocol.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Protocol {
    /// Engine.IO 4 over WebSocket, and the event `channel`
    Socketio,
    /// A plain WebSocket whose URL names the {room}
    Websocket,
}

/// A server that accepts connections.
pub struct Target {
    /// The URL as it was given.
    pub url: Url,
    /// The viewers' protocol.
    pub protocol: Protocol,
    /// Whether viewers connect by polling and then upgrade, as browsers do.
    pub upgrade: bool,
    /// The address to connect to.
    pub addr: SocketAddr,
    /// With TLS: its configuration, and the name that the certificate must be valid for.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Target {
    /// Resolves the server's name and checks that it accepts connections.
    ///
    /// # Errors
    /// If the URL is invalid, the name cannot be resolved, no address accepts a connection, or the
    /// TLS flags are wrong.
    pub async fn find(
        url: &str,
        protocol: Protocol,
        upgrade: bool,
        trust: &Trust,
    ) -> anyhow::Result<Self> {
        let url = parse(url)?;
        let addr = reach(&url).await?;
        let tls = if is_tls(&url) { Some((trust.config()?, name(&url)?)) } else { None };
        Ok(Self { url, protocol, upgrade, addr, tls })
    }

    /// An HTTP request: the URL's path with the name of the room, the query `more` (with its `?`),
    /// the header `host`, then `rest`, which has the other headers and the body.
    pub fn request(&self, method: &str, more: &str, room: &str, rest: &str) -> String {
        let path = match self.url.path() {
            "/" if self.protocol == Protocol::Socketio => SOCKET_IO,
            path => path,
        };
        let path = in_room(path, room);
        let host = authority(&self.url);
        format!("{method} {path}{more} HTTP/1.1\r\nhost: {host}\r\n{rest}")
    }
}

/// Parses a URL.
///
/// # Errors
/// If its scheme is not http, https, ws or wss, or it has no host.
pub fn parse(text: &str) -> anyhow::Result<Url> {
    let wrong = || format!("`{text}` is no URL: write http://host:port, https://, ws:// or wss://");
    let url = Url::parse(text).with_context(wrong)?;
    if !matches!(url.scheme(), "http" | "https" | "ws" | "wss") || url.host().is_none() {
        bail!(wrong());
    }
    Ok(url)
}

/// Whether the URL's scheme requires TLS.
pub fn is_tls(url: &Url) -> bool {
    matches!(url.scheme(), "https" | "wss")
}

/// The name that the server's certificate must be valid for.
///
/// # Errors
/// If the URL's host is neither a DNS name nor an address.
pub fn name(url: &Url) -> anyhow::Result<ServerName<'static>> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    ServerName::try_from(host).with_context(|| format!("no certificate can be for {url}"))
}

/// The value of the header `host`.
pub fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"))
}

/// Replaces the placeholder in a path by the room's name.
pub fn in_room(path: &str, room: &str) -> String {
    // The URL parser has percent-encoded the braces.
    path.replace("%7Broom%7D", room).replace(ROOM, room)
}

/// The first of the host's addresses that accepts a connection. Each gets 5 s.
///
/// # Errors
/// If the host cannot be resolved, or none of its addresses accepts a connection.
pub async fn reach(url: &Url) -> anyhow::Result<SocketAddr> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_or_known_default().unwrap_or(80);
    let found = lookup_host((host, port)).await;
    let found = found.with_context(|| format!("cannot resolve {url}: check the URL"))?;
    for addr in found {
        if let Ok(Ok(_)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(addr)).await {
            return Ok(addr);
        }
    }
    bail!("no server accepts connections at {url}: start it, or check the URL")
}
