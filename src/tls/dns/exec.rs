//! TXT records through an external program, with the same arguments as lego's `exec` provider.

use std::{path::PathBuf, process::Stdio, time::Duration};

use async_trait::async_trait;
use tokio::{io::AsyncReadExt, process::Command, time::timeout};

use super::{Provider, Txt, excerpt};
use crate::{
    config::secrets,
    tls::backoff::{Class, Failure},
};

/// Time limit of a call. The Azure CLI (`az`) alone takes ten seconds to start.
const TIMEOUT: Duration = Duration::from_secs(120);
/// The most bytes that are read of the program's standard error.
const MAX_SAID: u64 = 64 << 10;

/// A program that creates and removes TXT records.
pub struct Exec {
    /// The path of the program.
    pub path: PathBuf,
    /// Whether the program gets the challenge instead of the TXT record (lego's raw mode).
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
    /// Builds the command. The program uses credentials of its own, so Roomcast's secrets are
    /// removed from its environment.
    fn command(&self, action: &str, txt: &Txt) -> Command {
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
        for variable in secrets() {
            command.env_remove(variable);
        }
        command
    }

    async fn call(&self, action: &str, txt: &Txt) -> Result<(), Failure> {
        let mut command = self.command(action, txt);
        let name = format!("EXEC_PATH: `{} {action} …`", self.path.display());
        let mut child = command.spawn().map_err(|error| {
            Failure::new(Class::Credentials, format!("{name} cannot be run: {error}"))
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
            Err(_) => format!("{name} did not exit within {} s", TIMEOUT.as_secs()),
        };
        let said = excerpt(&String::from_utf8_lossy(&said));
        Err(Failure::new(Class::Validation, [problem, said].join(": ")))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[tokio::test]
    async fn a_program_gets_the_record_or_the_challenge_but_no_secrets() {
        let folder = std::env::temp_dir().join(format!("roomcast-exec-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let (path, called) = (folder.join("dns.sh"), folder.join("called"));
        let script = format!("#!/bin/sh\necho \"$*\" > {}\n", called.display());
        fs::write(&path, script).expect("written");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("executable");
        let txt = Txt {
            host: "a.example".into(),
            name: "_acme-challenge.a.example".into(),
            value: "value".into(),
            token: "token".into(),
            key_authorization: "token.key".into(),
        };
        for (raw, expected) in [
            (false, "present _acme-challenge.a.example. value\n"),
            (true, "present -- a.example token token.key\n"),
        ] {
            let exec = Exec { path: path.clone(), raw };
            exec.present(&txt).await.expect("called");
            assert_eq!(fs::read_to_string(&called).expect("written"), expected);
        }
        let exec = Exec { path: path.clone(), raw: false };
        let command = exec.command("present", &txt);
        let removed = command.as_std().get_envs().filter(|(_, value)| value.is_none());
        let removed: Vec<_> = removed.filter_map(|(name, _)| name.to_str()).collect();
        for secret in ["JWT_SECRET", "PUBLISH_TOKEN", "REDISHOST", "REDIS_PASSWORD", "CF_API_KEY"] {
            assert!(removed.contains(&secret), "{secret}");
        }
        assert!(!removed.contains(&"PATH") && !removed.contains(&"RTHOST"));
        let missing = Exec { path: folder.join("nowhere"), raw: false };
        let failure = missing.clean_up(&txt).await.expect_err("there is none");
        assert_eq!(failure.class, Class::Credentials);
        fs::remove_dir_all(&folder).expect("was there");
    }
}
