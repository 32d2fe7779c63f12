//! What a server reads again while it runs, when SIGHUP asks for it.

use std::sync::Arc;

use tokio::{sync::Notify, task::spawn_blocking};
use tracing::{info, warn};

use crate::{
    auth::Auth,
    config::{AccessKeys, Settings},
    metrics::Metrics,
};

/// Reads again what can be read again.
pub struct Reload {
    pub(super) auth: Arc<Auth>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) certificate: Certificate,
}

/// What is done about the certificate.
pub enum Certificate {
    /// There is none.
    None,
    /// Its files are read; the log says what came of it.
    Files(Arc<Notify>),
    /// One that could not be ordered is ordered, unless the CA itself named a time.
    Acme(Arc<Notify>),
}

impl Reload {
    /// Reads again the files that these settings name, and says in the log what was done. Settings
    /// in files that cannot be used stay as they are.
    pub async fn run(&self, settings: &Settings) {
        let files = settings.secret_files();
        match &self.certificate {
            Certificate::None if files.is_empty() => {
                info!(
                    "SIGHUP received: no certificate and no token stands in a file, so nothing is read again"
                );
            }
            Certificate::None => {}
            Certificate::Files(again) => {
                info!("SIGHUP received: TLS_CERT and TLS_KEY are read again");
                again.notify_one();
            }
            Certificate::Acme(again) => {
                info!(
                    "SIGHUP received: a certificate that could not be ordered is ordered now, unless the CA named a time; credentials in files are read again for it"
                );
                again.notify_one();
            }
        }
        if !files.is_empty() {
            self.access(settings, &files.join(", ")).await;
        }
    }

    async fn access(&self, settings: &Settings, files: &str) {
        let settings = settings.clone();
        match spawn_blocking(move || AccessKeys::read(&settings)).await {
            Ok(Ok(keys)) => {
                let changed = self.auth.replace(keys);
                self.metrics.tokens_required.set(self.auth.wants_tokens().into());
                let news = if changed { "changed and in use" } else { "unchanged" };
                info!("SIGHUP received: {files} read again: {news}");
            }
            Ok(Err(problems)) => {
                warn!(
                    "SIGHUP received: {files} read again: {problems}; what was read before stays in use"
                );
            }
            Err(error) => warn!("SIGHUP received: {files} cannot be read again: {error}"),
        }
    }
}
