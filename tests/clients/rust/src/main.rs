//! Watches a room with rust_socketio, and prints what it receives as lines of JSON.
//!
//! `roomcast-rust-client URL ROOM polling|websocket|any`

use std::{env, thread, time::Duration};

use rust_socketio::{ClientBuilder, Payload, TransportType};
use serde_json::{Value, json};

/// How long the client watches if it is not ended before.
const AT_MOST: Duration = Duration::from_secs(60);

fn show(what: Value) {
    println!("{what}");
}

/// The arguments of an event.
fn arguments(payload: Payload) -> Vec<Value> {
    match payload {
        Payload::Text(values) => values,
        Payload::Binary(bytes) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            vec![json!({ "bytes": hex })]
        }
        other => vec![json!({ "unexpected": format!("{other:?}") })],
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = env::args().collect();
    let [_, url, room, transport] = &words[..] else { return Err("URL ROOM TRANSPORT".into()) };
    let transport = match transport.as_str() {
        "polling" => TransportType::Polling,
        "websocket" => TransportType::Websocket,
        _ => TransportType::Any,
    };
    let message = |payload: Payload, _| {
        let event = [vec![json!("message")], arguments(payload)].concat();
        show(Value::from(event));
    };
    let client = ClientBuilder::new(url)
        .transport_type(transport)
        .on("message", message)
        .connect()?;
    let joined = |payload: Payload, _| show(json!(["joined", arguments(payload)[0][0]]));
    client.emit_with_ack("channel", json!(room), Duration::from_secs(10), joined)?;
    thread::park_timeout(AT_MOST);
    Ok(())
}
