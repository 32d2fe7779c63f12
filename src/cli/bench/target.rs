//! The server that viewers connect to: where it is, and how they ask.

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

/// For one address to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Where Socket.IO is if the URL does not say.
const SOCKET_IO: &str = "/socket.io/";
/// What a URL has where the room's name goes.
pub const ROOM: &str = "{room}";

/// What viewers speak.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Protocol {
    /// Engine.IO 4 over WebSocket, and the event `channel`
    Socketio,
    /// A plain WebSocket whose URL names the {room}
    Websocket,
}

/// A server that takes connections.
pub struct Target {
    /// As it was given.
    pub url: Url,
    /// What viewers speak.
    pub protocol: Protocol,
    /// Whether they begin by polling, as browsers do.
    pub upgrade: bool,
    /// Where to connect.
    pub addr: SocketAddr,
    /// With HTTPS: how, and for which name.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Target {
    /// Looks the server up and sees whether it is there.
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

    /// A request whose path has the query `more` and the name of the room.
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

/// A URL with a host.
pub fn parse(text: &str) -> anyhow::Result<Url> {
    let wrong = || format!("`{text}` is no URL: write http://host:port, https://, ws:// or wss://");
    let url = Url::parse(text).with_context(wrong)?;
    if !matches!(url.scheme(), "http" | "https" | "ws" | "wss") || url.host().is_none() {
        bail!(wrong());
    }
    Ok(url)
}

/// Whether bytes are encrypted on the way there.
pub fn is_tls(url: &Url) -> bool {
    matches!(url.scheme(), "https" | "wss")
}

/// For whom its certificate has to be.
pub fn name(url: &Url) -> anyhow::Result<ServerName<'static>> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    ServerName::try_from(host).with_context(|| format!("no certificate can be for {url}"))
}

/// The header `host`.
pub fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"))
}

/// A path with the room's name in its place.
pub fn in_room(path: &str, room: &str) -> String {
    // The parser has encoded the braces.
    path.replace("%7Broom%7D", room).replace(ROOM, room)
}

/// The first of a host's addresses where somebody takes a connection.
pub async fn reach(url: &Url) -> anyhow::Result<SocketAddr> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_or_known_default().unwrap_or(80);
    let found = lookup_host((host, port)).await;
    let found = found.with_context(|| format!("{url} cannot be looked up: check the URL"))?;
    for addr in found {
        if let Ok(Ok(_)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(addr)).await {
            return Ok(addr);
        }
    }
    bail!("no server takes connections at {url}: start it, or check the URL")
}
