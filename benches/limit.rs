//! The limit: one `write(2)` a viewer and message, from a bare loop, and nothing else.
//!
//! `limit REDIS_PORT` subscribes to every channel, and hands each message to the WebSockets that
//! were opened at `/CHANNEL`. It prints the port that it serves at. No heartbeats, no queues: a
//! viewer that does not read stops everybody. `ulimit -n` says how many there can be.

use std::{
    collections::HashMap,
    env,
    io::{self, BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

/// The viewers of each channel.
type Rooms = Arc<Mutex<HashMap<Vec<u8>, Vec<TcpStream>>>>;

fn main() -> io::Result<()> {
    let port = env::args().nth(1).and_then(|port| port.parse().ok());
    let port: u16 = port.ok_or_else(|| io::Error::other("usage: limit REDIS_PORT"))?;
    let mut redis = BufReader::new(TcpStream::connect(("127.0.0.1", port))?);
    redis.get_mut().write_all(b"PSUBSCRIBE *\r\n")?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    println!("{}", listener.local_addr()?.port());
    let rooms = Rooms::default();
    thread::spawn({
        let rooms = rooms.clone();
        move || {
            for viewer in listener.incoming().flatten() {
                // One that is gone already is nobody's loss.
                let _ = admit(viewer, &rooms);
            }
        }
    });
    deliver(&mut redis, &rooms)
}

/// Takes a viewer's handshake on trust, and puts it into its room.
fn admit(mut viewer: TcpStream, rooms: &Rooms) -> io::Result<()> {
    let mut request = BufReader::new(&viewer);
    let mut first = String::new();
    request.read_line(&mut first)?;
    let mut header = String::new();
    while request.read_line(&mut header)? > 2 {
        header.clear();
    }
    let channel = first.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
    let mut rooms = rooms.lock().unwrap_or_else(PoisonError::into_inner);
    viewer.set_nodelay(true)?;
    viewer.write_all(
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    )?;
    rooms.entry(channel.into_bytes()).or_default().push(viewer);
    Ok(())
}

/// Hands on what Redis says, until it ends.
fn deliver(redis: &mut impl BufRead, rooms: &Rooms) -> io::Result<()> {
    let mut frame = Vec::new();
    loop {
        let mut words = Vec::new();
        for _ in 0..number(redis, b'*')? {
            words.push(word(redis)?);
        }
        // The first answer, to our own command, has three words.
        let [_, _, channel, payload] = &words[..] else { continue };
        frame.clear();
        frame.push(0x81);
        match payload.len() {
            short @ ..126 => frame.push(short as u8),
            long => {
                frame.push(126);
                frame.extend((long as u16).to_be_bytes());
            }
        }
        frame.extend(payload);
        let mut rooms = rooms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(viewers) = rooms.get_mut(channel) {
            viewers.retain_mut(|viewer| viewer.write_all(&frame).is_ok());
        }
    }
}

/// A bulk string, or a number as its digits.
fn word(redis: &mut impl BufRead) -> io::Result<Vec<u8>> {
    if redis.fill_buf()?.first() == Some(&b':') {
        return Ok(number(redis, b':')?.to_string().into_bytes());
    }
    let length = number(redis, b'$')?;
    let mut word = vec![0; length + 2];
    redis.read_exact(&mut word)?;
    word.truncate(length);
    Ok(word)
}

/// A line that begins with `kind`, and goes on with a number.
fn number(redis: &mut impl BufRead, kind: u8) -> io::Result<usize> {
    let mut line = Vec::new();
    redis.read_until(b'\n', &mut line)?;
    let digits = line.strip_prefix(&[kind]).and_then(|rest| std::str::from_utf8(rest).ok());
    let number = digits.and_then(|digits| digits.trim_end().parse().ok());
    number.ok_or_else(|| io::Error::other("Redis says something else, or is gone"))
}
