//! A certificate and its key in two files of somebody else, read again when they change.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, anyhow};
use tokio::{
    select,
    sync::Notify,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{certificates::Certificates, pair::Pair};
use crate::{config::CertificateFiles, file_calls::FileCalls};

/// How often the files are read. Their content is compared, not their times: mounted secrets are
/// links to folders that are swapped, and a copy may keep the time of its original.
const READ_EVERY: Duration = Duration::from_secs(2);

/// What the files held when they were last looked at.
#[derive(Clone, PartialEq)]
struct Content {
    chain: Vec<u8>,
    key: Vec<u8>,
}

/// Two files, and whom to tell when they change.
pub struct Watch {
    files: CertificateFiles,
    certificates: Arc<Certificates>,
    calls: FileCalls,
    again: Arc<Notify>,
    seen: Content,
}

impl Watch {
    /// Reads the files for the first time. What cannot be used at all is an error; an expired
    /// certificate is reported and used, since there is no better one.
    pub async fn start(
        files: CertificateFiles,
        certificates: Arc<Certificates>,
    ) -> anyhow::Result<Self> {
        let calls = FileCalls::default();
        let seen = read(&files, &calls).await?;
        let pair = parse(&files, &seen)?;
        let holds = pair.holds(SystemTime::now());
        certificates.swap(pair);
        if let Err(reason) = holds {
            warn!(
                "TLS_CERT ({}): {reason}; it is used, for want of a better one",
                files.cert.display()
            );
        }
        Ok(Self { files, certificates, calls, again: Arc::default(), seen })
    }

    /// Notified, the files are read at once, and the log says what came of it.
    pub fn again(&self) -> Arc<Notify> {
        self.again.clone()
    }

    /// Looks at the files until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut ticks = interval(READ_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = select! {
                _ = ticks.tick() => false,
                () = self.again.notified() => true,
                () = stop.cancelled() => return,
            };
            // A share that does not answer must not hold up the end.
            let Some(looked) = stop.run_until_cancelled(self.look()).await else { return };
            match looked {
                Ok(changed) if asked => {
                    let news = if changed { "changed and in use" } else { "unchanged" };
                    info!("TLS_CERT and TLS_KEY read again: {news}");
                }
                Ok(_) => {}
                Err(error) => {
                    let text = format!("{error:#}; the certificate in use stays");
                    if asked {
                        warn!("TLS_CERT and TLS_KEY read again: {text}");
                    }
                    self.certificates.failed(text);
                }
            }
        }
    }

    /// Whether another certificate is in use now.
    async fn look(&mut self) -> anyhow::Result<bool> {
        let content = read(&self.files, &self.calls).await?;
        if content == self.seen {
            self.certificates.recovered();
            return Ok(false);
        }
        let pair = parse(&self.files, &content)?;
        if let Err(reason) = pair.holds(SystemTime::now())
            && self.certificates.usable()
        {
            return Err(anyhow!("TLS_CERT ({}): {reason}", self.files.cert.display()));
        }
        self.seen = content;
        self.certificates.swap(pair);
        Ok(true)
    }
}

/// Reads them once.
pub async fn load(files: &CertificateFiles) -> anyhow::Result<Pair> {
    parse(files, &read(files, &FileCalls::default()).await?)
}

async fn read(files: &CertificateFiles, calls: &FileCalls) -> anyhow::Result<Content> {
    let read = async |setting: &str, file: &Path| {
        let content = calls.read(file).await;
        content.with_context(|| format!("{setting}: cannot read {}", file.display()))
    };
    Ok(Content {
        chain: read("TLS_CERT", &files.cert).await?,
        key: read("TLS_KEY", &files.key).await?,
    })
}

fn parse(files: &CertificateFiles, content: &Content) -> anyhow::Result<Pair> {
    Pair::parse(&content.chain, &content.key).with_context(|| {
        format!("TLS_CERT ({}) and TLS_KEY ({})", files.cert.display(), files.key.display())
    })
}
