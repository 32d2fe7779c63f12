//! Supervision of core tasks: if one panics, the process logs it and exits with code 1.
//!
//! The injected panic exists in debug builds only.
#![cfg(debug_assertions)]

use std::fs;

use serde_json::Value;

use crate::support::{Client, TestServer};

/// Makes a core task panic while a viewer is connected, and checks how the process ends.
async fn fails(task: &str) {
    let name = format!("roomcast-fault-{}-{task}", std::process::id());
    let file = std::env::temp_dir().join(name);
    let fault = format!("{task}:{}", file.display());
    let state_dir = format!("{}-state", file.display());
    let settings = [
        ("ROOMCAST_PANIC_IN", &*fault),
        ("GRACE", "60s"),
        ("LANES", "1"),
        ("STATE_DIR", &*state_dir),
    ];
    let (site, process) = TestServer::start_process(&settings).await;
    // This viewer does not answer the close of its WebSocket, which would delay an orderly exit.
    let mut viewer = Client::connect(&site).await;
    viewer.join("device01").await;
    fs::write(&file, "").expect("written");
    if task != "accept-admin" {
        let expected = format!("the core task `{task}` has panicked\n");
        site.until("not live", async || site.get("/livez").await == (503, expected.clone())).await;
    }
    let (code, log) = process.end().await;
    fs::remove_file(&file).expect("removed");
    fs::remove_dir_all(&state_dir).expect("removed");
    assert_eq!(code, Some(1), "{log}");
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let errors: Vec<_> = lines.filter(|line| line["level"] == "ERROR").collect();
    assert_eq!(errors.len(), 2, "{log}");
    assert_eq!(errors[0]["message"], "panic: a fault for a test", "{log}");
    assert!(errors[0]["place"].as_str().is_some_and(|place| place.contains(".rs:")), "{log}");
    assert_eq!(errors[1]["task"], task, "{log}");
    let last = format!("roomcast: the core task `{task}` has panicked");
    assert_eq!(log.lines().last(), Some(&*last), "{log}");
}

macro_rules! each {
    ($($name:ident: $task:literal;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                fails($task).await;
            }
        )*
    };
}

each! {
    the_subscription: "subscription";
    a_lane: "lane";
    the_sweep: "sweep";
    the_expiry_of_tokens: "expiry";
    the_end_of_sessions: "sessions";
    the_embedded_broker: "embedded";
    the_public_listener: "accept";
    the_listener_for_operators: "accept-admin";
    the_writer_of_the_history: "state";
}
