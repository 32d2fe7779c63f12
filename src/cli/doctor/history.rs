//! How far back the history of a server reaches that runs on this machine.

use roomcast::config::Config;
use serde_json::Value;

use super::Finding;
use crate::cli::healthcheck;

/// Asks the running server, if there is one; otherwise finds nothing.
pub async fn look(config: &Config) -> Vec<Finding> {
    let Some(admin) = &config.admin_addr else { return Vec::new() };
    let answer = healthcheck::ask(admin, "/status").await;
    let status = answer.ok().and_then(|(_, text)| serde_json::from_str::<Value>(&text).ok());
    let history = status.as_ref().and_then(|status| status.get("history"));
    history.and_then(finding).into_iter().collect()
}

fn finding(history: &Value) -> Option<Finding> {
    let seconds = history.get("window_seconds")?.as_u64()?;
    Some(match history.get("limited")?.as_str() {
        Some(limited) => Finding::warn("HISTORY_BYTES", limited),
        None => {
            let text = format!("the history of the running server reaches back {seconds} s");
            Finding::ok("HISTORY_TTL", text)
        }
    })
}
