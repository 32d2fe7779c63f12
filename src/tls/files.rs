//! A certificate and its key in files that another program maintains (`TLS_CERT`, `TLS_KEY`). They
//! are read again when they change.

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

/// How often the files are read. Changes are detected by content, not by modification time: mounted
/// secrets are symbolic links to folders that are swapped, and a copy may keep its original's time.
const READ_EVERY: Duration = Duration::from_secs(2);

/// The content of both files when they were last used.
#[derive(Clone, PartialEq)]
struct Content {
    chain: Vec<u8>,
    key: Vec<u8>,
}

/// Watches the two files and replaces the certificate in use when they change.
///
/// [`start`](Self::start) reads the files once and fails if they cannot be used. [`run`](Self::run)
/// then reads them every 2 s until the server stops; from then on, a problem is only reported, and
/// the certificate in use is kept.
pub struct Watch {
    files: CertificateFiles,
    certificates: Arc<Certificates>,
    calls: FileCalls,
    again: Arc<Notify>,
    seen: Content,
}

impl Watch {
    /// Reads the files for the first time and uses the certificate. If it has expired or is not
    /// valid yet, it is used with a warning, since there is no other one.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or they do not hold a certificate and its key in PEM.
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
                "TLS_CERT ({}): {reason}; it is used because there is no other certificate",
                files.cert.display()
            );
        }
        Ok(Self { files, certificates, calls, again: Arc::default(), seen })
    }

    /// The handle for SIGHUP: after `notify_one`, the files are read at once, and the result is
    /// logged.
    pub fn again(&self) -> Arc<Notify> {
        self.again.clone()
    }

    /// Reads the files every 2 s, and after each notification, until `stop` is cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut ticks = interval(READ_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = select! {
                _ = ticks.tick() => false,
                () = self.again.notified() => true,
                () = stop.cancelled() => return,
            };
            // The files may be on a share that does not answer; that must not delay the shutdown.
            let Some(looked) = stop.run_until_cancelled(self.look()).await else { return };
            match looked {
                Ok(changed) if asked => {
                    let news = if changed { "changed and in use" } else { "unchanged" };
                    info!("TLS_CERT and TLS_KEY read again: {news}");
                }
                Ok(_) => {}
                Err(error) => {
                    let text = format!("{error:#}; the certificate in use is kept");
                    if asked {
                        warn!("TLS_CERT and TLS_KEY read again: {text}");
                    }
                    self.certificates.failed(text);
                }
            }
        }
    }

    /// Reads the files and uses the certificate if it changed; returns whether it did. A
    /// certificate that is not valid now does not replace one that is.
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

/// Reads the files once, without watching them.
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
