//! A server whose certificate comes from Pebble, and what `/status` reports about the certificate.

use std::{
    process::{Child, Command, Stdio},
    sync::Arc,
};

use roomcast::config::Settings;
use serde_json::Value;

use crate::{pebble::Ca, support::TestServer};

pub async fn site(ca: &Ca, change: impl FnOnce(&mut Settings)) -> Arc<TestServer> {
    TestServer::start_with(|settings| {
        ca.settings(settings);
        change(settings);
    })
    .await
}

pub async fn certificate(site: &TestServer) -> Value {
    let (_, status) = site.get("/status").await;
    let status: Value = serde_json::from_str(&status).expect("JSON");
    status["certificate"].clone()
}

pub async fn until_served(site: &TestServer) -> String {
    site.until("a certificate", async || certificate(site).await["ok"] == true).await;
    certificate(site).await["serial"].as_str().expect("a serial").to_owned()
}

/// Waits until a certificate other than `former` is in use. Right after a start there is none yet,
/// which is not a newer one.
pub async fn until_replaced(site: &TestServer, former: &str) {
    site.until("a newer certificate", async || {
        let certificate = certificate(site).await;
        certificate["ok"] == true && certificate["serial"] != *former
    })
    .await;
}

/// Waits until the error in `/status` contains `text`, and returns it.
pub async fn until_told(site: &TestServer, text: &str) -> String {
    let told = async || certificate(site).await["error"].as_str().unwrap_or_default().to_owned();
    site.until(text, async || told().await.contains(text)).await;
    told().await
}

/// A server process that is killed on drop.
pub struct Killed(pub Child);

impl Killed {
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Killed {
    /// Starts the program with the variables that lead to the CA and `variables`.
    pub fn start(ca: &Ca, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_roomcast"));
        command.env_clear().envs(ca.variables()).envs(variables.iter().copied());
        command.envs([("ADMIN_ADDR", "off"), ("REDISHOST", "embedded:0")]);
        Self(command.stdout(Stdio::null()).spawn().expect("runs"))
    }

    /// Sends SIGHUP: the server retries its order at once.
    pub fn hang_up(&self) {
        let hangup =
            Command::new("sh").args(["-c", &format!("kill -HUP {}", self.0.id())]).status();
        assert!(hangup.expect("a shell").success());
    }
}
