//! TXT records by a program of one's own, called as lego calls it.

use std::{path::PathBuf, process::Stdio, time::Duration};

use async_trait::async_trait;
use tokio::{io::AsyncReadExt, process::Command, time::timeout};

use super::{Provider, Txt, excerpt};
use crate::tls::backoff::{Class, Failure};

/// For a call. `az` takes ten seconds to say hello.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Bytes of what it says that are read.
const MAX_SAID: u64 = 64 << 10;

/// A program.
pub struct Exec {
    /// Where it is.
    pub path: PathBuf,
    /// It wants the challenge instead of the record.
    pub raw: bool,
}

#[async_trait]
impl Provider for Exec {
    async fn zone(&self, _: &str) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    async fn present(&self, txt: &Txt) -> Result<(), Failure> {
        self.call("present", txt).await
    }

    async fn clean_up(&self, txt: &Txt) -> Result<(), Failure> {
        self.call("cleanup", txt).await
    }
}

impl Exec {
    async fn call(&self, action: &str, txt: &Txt) -> Result<(), Failure> {
        let mut command = Command::new(&self.path);
        command.arg(action);
        match self.raw {
            true => command.args(["--", &txt.host, &txt.token, &txt.key_authorization]),
            false => command.args([&format!("{}.", txt.name), &txt.value]),
        };
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let name = format!("EXEC_PATH: `{} {action} …`", self.path.display());
        let mut child = command.spawn().map_err(|error| {
            Failure::new(Class::Credentials, format!("{name} cannot be called: {error}"))
        })?;
        let mut said = Vec::new();
        let end = async {
            if let Some(errors) = child.stderr.take() {
                errors.take(MAX_SAID).read_to_end(&mut said).await?;
            }
            child.wait().await
        };
        let ended = timeout(TIMEOUT, end).await;
        let problem = match ended {
            Ok(Ok(status)) if status.success() => return Ok(()),
            Ok(Ok(status)) => format!("{name} failed, {status}"),
            Ok(Err(error)) => format!("{name} failed: {error}"),
            Err(_) => format!("{name} did not end within {} s", TIMEOUT.as_secs()),
        };
        let said = excerpt(&String::from_utf8_lossy(&said));
        Err(Failure::new(Class::Validation, [problem, said].join(": ")))
    }
}
