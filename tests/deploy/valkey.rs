//! The chart's bundled Valkey, started with the command of its container, delivers a message to a
//! viewer.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    chart::of_kind,
    files::{list, text},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A process that is killed on drop.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts Valkey with the command line of the container, on a free port of the loopback.
fn valkey() -> (Running, u16) {
    let named = |object: &Value| object["metadata"]["name"] == "roomcast-redis";
    let deployment = of_kind("trying", "Deployment").into_iter().find(named).expect("a deployment");
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let words: Vec<_> =
        list(&container["command"]).iter().chain(list(&container["args"])).map(text).collect();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
    let mut running = Running(command.stdout(Stdio::piped()).spawn().expect("Valkey starts"));
    let log = running.0.stdout.as_mut().expect("its log");
    after(&mut BufReader::new(log), "Ready to accept connections");
    (running, port)
}

fn roomcast(redis: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roomcast"));
    command.env_clear().env("REDISHOST", format!("localhost:{redis}"));
    command
}

/// Reads until a line contains `word`, and returns the rest of that line.
fn after(reader: &mut impl BufRead, word: &str) -> String {
    loop {
        let mut line = String::new();
        assert_ne!(reader.read_line(&mut line).expect("a line in time"), 0, "no {word}");
        if let Some((_, rest)) = line.split_once(word) {
            return rest.trim().to_owned();
        }
    }
}

#[test]
#[ignore = "needs helm and valkey-server: tests/run"]
fn the_bundled_valkey_carries_messages_to_viewers() {
    let (_valkey, port) = valkey();
    let mut server = roomcast(port);
    server.args(["--http-addr", "127.0.0.1:0", "--admin-addr", "off"]).stderr(Stdio::null());
    let mut server = Running(server.stdout(Stdio::piped()).spawn().expect("it starts"));
    let mut told = BufReader::new(server.0.stdout.take().expect("its output"));
    let address = after(&mut told, "Page    http://");
    let mut viewer = TcpStream::connect(&address).expect("a connection");
    viewer.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    write!(viewer, "GET /events/device01 HTTP/1.1\r\nHost: {address}\r\n\r\n").expect("a request");
    let mut events = BufReader::new(viewer);
    after(&mut events, "event: joined");
    // Valkey counts one subscriber as soon as the server is subscribed.
    let begun = Instant::now();
    loop {
        let args = ["publish", "device01", "hello"];
        let counted = roomcast(port).args(args).output().expect("it runs").stdout;
        if counted.starts_with(b"1") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "no subscriber");
    }
    assert_eq!(after(&mut events, "data: hello"), "");
}
