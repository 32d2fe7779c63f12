//! `roomcast doctor`: checks everything that a server needs on this machine, without changing
//! anything.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use futures_util::future::{BoxFuture, FutureExt, join_all};
use roomcast::{
    config::{BadSettings, Config, Source, misspelt},
    inspect::are_checked,
    redis::answers,
};
use serde::Serialize;
use tokio::time::timeout;

use super::access::Access;

mod history;
mod https;
mod machine;
mod redis;

/// Time limit of a check as a whole. A check makes several requests, most of which have their own
/// time limit.
const CHECK_TIMEOUT: Duration = Duration::from_secs(15);

/// Check everything that a server needs on this machine, without changing anything.
#[derive(Args)]
pub struct Doctor {
    /// Print a JSON array of {verdict, setting, text}
    #[arg(long)]
    json: bool,
}

/// The result of a check of a setting, and what to do about it.
#[derive(Serialize)]
struct Finding {
    verdict: Verdict,
    setting: String,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// The server will run, but something should be improved.
    Warn,
    /// The server will not start, or will not be able to forward messages.
    Fail,
}

impl Finding {
    fn ok(setting: &str, text: impl AsRef<str>) -> Self {
        // Keep the finding on one line, even if an error text has several.
        let text = text.as_ref().split_whitespace().collect::<Vec<_>>().join(" ");
        Self { verdict: Verdict::Ok, setting: setting.to_owned(), text }
    }

    fn warn(setting: &str, text: impl AsRef<str>) -> Self {
        Self { verdict: Verdict::Warn, ..Self::ok(setting, text) }
    }

    fn fail(setting: &str, text: impl AsRef<str>) -> Self {
        Self { verdict: Verdict::Fail, ..Self::ok(setting, text) }
    }
}

/// A check. All checks run concurrently.
type Check<'a> = BoxFuture<'a, Vec<Finding>>;

/// Adds the time limit to a check; a check that takes longer is a failure of `setting`.
fn check<'a>(
    setting: &'static str,
    look: impl Future<Output = Vec<Finding>> + Send + 'a,
) -> Check<'a> {
    let late = move |_| {
        let after = CHECK_TIMEOUT.as_secs();
        vec![Finding::fail(setting, format!("the check got no answer within {after} s"))]
    };
    timeout(CHECK_TIMEOUT, look).map(move |found| found.unwrap_or_else(late)).boxed()
}

/// What clients need for watching and publishing, as in the server's banner.
async fn access(config: &Config) -> Vec<Finding> {
    let at = config.https.as_ref().map_or(&config.http_addr, |https| &https.addr);
    let embedded = match &config.source {
        Source::Embedded(_) => true,
        Source::Detect(address) => !answers(address).await,
        Source::Redis(_) => false,
    };
    let checked = are_checked(config, at.is_loopback(), embedded);
    vec![Finding::ok("access", Access::new(config, at, checked).to_string())]
}

impl Doctor {
    /// Runs all checks and prints their findings. The exit code is 1 if one of them is a failure.
    pub async fn run(&self, config: &Config) -> anyhow::Result<ExitCode> {
        let mut checks = vec![
            check("access", access(config)),
            check("REDISHOST", redis::look(config)),
            check("HTTP_ADDR", machine::look(config)),
            check("HISTORY_TTL", history::look(config)),
        ];
        checks.extend(https::checks(config));
        let mut findings = vec![Finding::ok("settings", "all settings are valid")];
        let doubtful = misspelt();
        findings
            .extend(doubtful.iter().map(|name| Finding::warn(&name.variable, name.to_string())));
        findings.extend(join_all(checks).await.into_iter().flatten());
        self.print(&findings);
        let failed = findings.iter().any(|finding| finding.verdict == Verdict::Fail);
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// Prints the invalid settings as failures. Without valid settings, nothing else can be
    /// checked.
    pub fn refuse(&self, problems: &BadSettings) {
        let fail = |bad: &roomcast::config::Problem| Finding::fail(&bad.setting, &bad.problem);
        let findings: Vec<_> = problems.problems().iter().map(fail).collect();
        self.print(&findings);
    }

    fn print(&self, findings: &[Finding]) {
        if self.json {
            println!("{:#}", serde_json::json!(findings));
            return;
        }
        for Finding { verdict, setting, text } in findings {
            let verdict = match verdict {
                Verdict::Ok => "ok",
                Verdict::Warn => "warn",
                Verdict::Fail => "FAIL",
            };
            println!("{verdict:<5} {setting:<15} {text}");
        }
    }
}
