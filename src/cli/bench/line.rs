//! A viewer's connection: bytes that do not block, plain or over TLS.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream as Blocking},
};

use mio::net::TcpStream;
use rustls::{ClientConnection, StreamOwned};
use socket2::{Domain, Socket, Type};

use super::target::Target;

/// Linux gives 28,232 ports to the connections from one address to another.
const PER_SOURCE: usize = 20_000;
/// What the kernel takes for a viewer that does not read fast: as little as it lets us ask for, so
/// that the server notices, as it would over a long way.
const SMALL_WINDOW: usize = 4096;

/// A connection, possibly not yet established.
pub enum Line {
    /// Plain bytes.
    Plain(TcpStream),
    /// The same, encrypted.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Line {
    /// Begins to connect the viewer of this number; one that is `hindered` gets a small window.
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

    /// What events are told of.
    pub fn socket(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(tls) => &mut tls.sock,
        }
    }

    /// Whether a read of `read` bytes where `asked` were asked for took all that there was. Where
    /// that is unsure, the next one says so.
    pub fn is_drained(&self, read: usize, asked: usize) -> bool {
        matches!(self, Self::Plain(_)) && read < asked && cfg!(unix)
    }

    /// Reads what is there; `None` if that is nothing.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        not_yet(match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        })
    }

    /// Writes what the kernel takes; `None` if that is nothing.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        not_yet(match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        })
    }
}

/// What to do about a connection that breaks.
pub fn explain(error: io::Error) -> anyhow::Error {
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    let what = match tls {
        Some(rustls::Error::InvalidCertificate(_)) => {
            "its certificate is not trusted: name its root by --ca, or use --insecure"
        }
        Some(_) => "TLS fails: check the URL, http:// or https://",
        None => "the connection broke",
    };
    anyhow::Error::new(error).context(what)
}

fn not_yet(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        // The second is what some systems say while the connection is not established.
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Where to connect from, when one address has no ports left for so many: only on this machine,
/// which has many addresses of its own.
fn source(target: SocketAddr, number: usize) -> Option<SocketAddr> {
    let turn = u8::try_from(number / PER_SOURCE).ok().filter(|&turn| turn > 0)?;
    let here = Ipv4Addr::new(127, 0, 0, 1 + turn);
    target.ip().is_loopback().then_some((IpAddr::V4(here), 0).into()).filter(|_| target.is_ipv4())
}

/// A connection with options of its own. It blocks until it is established: there are few of the
/// hindered, and the others are on this machine.
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
