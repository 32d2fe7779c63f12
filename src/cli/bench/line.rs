//! A viewer's connection: non-blocking, plain or over TLS.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream as Blocking},
};

use mio::net::TcpStream;
use rustls::{ClientConnection, StreamOwned};
use socket2::{Domain, Socket, Type};

use super::target::Target;

/// Connections per source address. Linux has 28,232 ephemeral ports for the connections from one
/// address to another.
const PER_SOURCE: usize = 20_000;
/// Receive buffer in bytes of a slow or stalled viewer. It is small, so that the server notices
/// soon that the viewer does not read, as it would over a slow network.
const SMALL_WINDOW: usize = 4096;

/// A connection, possibly not yet established.
pub enum Line {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Line {
    /// Starts to connect viewer `number`. A `hindered` (slow or stalled) one gets a small receive
    /// buffer.
    ///
    /// # Errors
    /// If the connection cannot be started, or TLS cannot be configured.
    pub fn open(target: &Target, number: usize, hindered: bool) -> anyhow::Result<Self> {
        let source = source(target.addr, number);
        let stream = if hindered || source.is_some() {
            TcpStream::from_std(prepared(target.addr, source, hindered)?)
        } else {
            TcpStream::connect(target.addr)?
        };
        Ok(match &target.tls {
            None => Self::Plain(stream),
            Some((config, name)) => {
                let tls = ClientConnection::new(config.clone(), name.clone())?;
                Self::Tls(Box::new(StreamOwned::new(tls, stream)))
            }
        })
    }

    /// The socket to register for events.
    pub fn socket(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(tls) => &mut tls.sock,
        }
    }

    /// Whether a read that returned `read` of `asked` bytes has certainly emptied the socket. If
    /// not, read again until [`read`](Self::read) returns `None`.
    pub fn is_drained(&self, read: usize, asked: usize) -> bool {
        matches!(self, Self::Plain(_)) && read < asked && cfg!(unix)
    }

    /// Reads available bytes; `Some(0)` at the end of the stream, `None` if none is available yet.
    ///
    /// # Errors
    /// If the connection is broken; [`explain`] says what to do.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        not_yet(match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        })
    }

    /// Writes as many bytes as the kernel takes; `None` if it takes none yet.
    ///
    /// # Errors
    /// If the connection is broken; [`explain`] says what to do.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        not_yet(match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        })
    }
}

/// Adds to an error of a connection what to do about it.
pub fn explain(error: io::Error) -> anyhow::Error {
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    let what = match tls {
        Some(rustls::Error::InvalidCertificate(_)) => {
            "the server's certificate is not trusted: name its root by --ca, or use --insecure"
        }
        Some(_) => "TLS failed: check the URL, http:// or https://",
        None => "the connection broke: see the server's log",
    };
    anyhow::Error::new(error).context(what)
}

fn not_yet(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        // Some systems report `NotConnected` while the connection is being established.
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The source address for viewer `number`; `None` = the system's choice. If the target is an IPv4
/// loopback address, viewers beyond the first [`PER_SOURCE`] connect from further addresses in
/// 127.0.0.0/8, because one address does not have enough ports.
fn source(target: SocketAddr, number: usize) -> Option<SocketAddr> {
    let turn = u8::try_from(number / PER_SOURCE).ok().filter(|&turn| turn > 0)?;
    let here = Ipv4Addr::new(127, 0, 0, 1 + turn);
    target.ip().is_loopback().then_some((IpAddr::V4(here), 0).into()).filter(|_| target.is_ipv4())
}

/// Connects with a source address or a small receive buffer. This blocks until the connection is
/// established, which is acceptable: hindered viewers are few, and source addresses are used on
/// loopback only.
fn prepared(
    target: SocketAddr,
    source: Option<SocketAddr>,
    hindered: bool,
) -> io::Result<Blocking> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    if hindered {
        socket.set_recv_buffer_size(SMALL_WINDOW)?;
    }
    if let Some(source) = source {
        socket.bind(&source.into())?;
    }
    socket.connect(&target.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
