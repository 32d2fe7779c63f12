//! Rereading files while the server runs, on SIGHUP.

use std::sync::Arc;

use tokio::{sync::Notify, task::spawn_blocking};
use tracing::{info, warn};

use crate::{
    auth::Auth,
    config::{AccessKeys, Settings},
    metrics::Metrics,
};

/// Rereads files of a running server: tokens and keys from `…_FILE` settings, and the certificate.
///
/// It is created before the server runs and shares its state, so it works as long as the server.
pub struct Reload {
    pub(super) auth: Arc<Auth>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) certificate: Certificate,
}

/// What a reload does about the certificate.
pub enum Certificate {
    /// HTTPS is off, so nothing is done.
    None,
    /// The files are reread by the task that watches them, which logs the result.
    Files(Arc<Notify>),
    /// An order that has failed is tried again at once, unless the CA has named a time for that.
    Acme(Arc<Notify>),
}

impl Reload {
    /// Rereads the files that these settings name and logs what was done. If a file cannot be read
    /// or has an invalid value, all values read before stay in use.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future early may skip files, but never replaces only some of the values.
    pub async fn run(&self, settings: &Settings) {
        let files = settings.secret_files();
        match &self.certificate {
            Certificate::None if files.is_empty() => {
                info!(
                    "SIGHUP received: no certificate and no token is read from a file, so there is nothing to read again"
                );
            }
            Certificate::None => {}
            Certificate::Files(again) => {
                info!("SIGHUP received: TLS_CERT and TLS_KEY are read again");
                again.notify_one();
            }
            Certificate::Acme(again) => {
                info!(
                    "SIGHUP received: if the last order of a certificate has failed, it is tried again now, unless the CA named a time; credentials in files are read again for it"
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
