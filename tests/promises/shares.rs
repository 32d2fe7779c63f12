//! Files on a network share that does not answer do not block the server for ever. A pipe without a
//! writer behaves like such a file: opening it blocks.
#![cfg(unix)]

use std::{fs, path::PathBuf, process::Stdio};

use tokio::process::Command;

use crate::support::{Client, TestServer, within};

/// A temporary folder with a pipe, removed on drop.
struct Share {
    folder: PathBuf,
    pipe: PathBuf,
}

impl Share {
    async fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("roomcast-share-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let pipe = folder.join("history-00000001");
        let made = Command::new("mkfifo").arg(&pipe).status().await.expect("mkfifo runs");
        assert!(made.success());
        Self { folder, pipe }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[tokio::test]
async fn a_secret_or_certificate_that_blocks_is_reported_with_its_setting() {
    let share = Share::new("settings").await;
    let pipe = share.pipe.to_str().expect("UTF-8");
    let refused = async |settings: &[(&str, &str)]| {
        let program = Command::new(env!("CARGO_BIN_EXE_roomcast"))
            .env_clear()
            .envs([("HTTP_ADDR", "127.0.0.1:0"), ("ADMIN_ADDR", "off")])
            .envs([("REDISHOST", "embedded:0")])
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = within("the end", program).await.expect("it ran");
        (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
    };
    let secret = [("JWT_SECRET_FILE", pipe)];
    let certificate = [("TLS_CERT", pipe), ("TLS_KEY", pipe)];
    let (secret, certificate) = tokio::join!(refused(&secret), refused(&certificate));
    let expected = format!("JWT_SECRET_FILE: cannot read `{pipe}`: no answer within 5 s");
    assert!(secret.0 == Some(2) && secret.1.contains(&expected), "{secret:?}");
    let expected = format!("TLS_CERT: cannot read {pipe}: no answer within 10 s");
    assert!(certificate.0 == Some(1) && certificate.1.contains(&expected), "{certificate:?}");
}

#[tokio::test]
async fn a_history_that_blocks_delays_neither_start_nor_exit() {
    let share = Share::new("state").await;
    let folder = share.folder.display().to_string();
    let (site, process) = TestServer::start_process(&[("STATE_DIR", &folder)]).await;
    let (code, status) = site.get("/status").await;
    assert!(code == 503 && status.contains("no answer within 10 s"), "{status}");
    let mut viewer = Client::connect(&site).await;
    viewer.join("device01").await;
    site.publish("device01", "a").await;
    assert_eq!(viewer.message().await, "a");
    process.signal("TERM").await;
    viewer.rest().await;
    drop(viewer);
    let (code, log) = process.end().await;
    assert_eq!(code, Some(0), "{log}");
}
