//! HTTPS: its bound listener, its certificate, and the certificate's renewal.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    config::{CertificateSource, Config},
    conn::accept,
    http::Redirect,
    metrics::Metrics,
    tls::{self, Tls, acme::Acme, certificates::Certificates, files::Watch},
};

/// HTTPS, bound and ready to run.
pub struct Secure {
    pub listener: TcpListener,
    pub tls: Tls,
    pub redirect: Redirect,
    pub renewal: Renewal,
}

/// The task that renews the certificate: by watching its files or by ordering from a CA (ACME).
pub enum Renewal {
    Files(Watch),
    Acme(Box<Acme>),
}

impl Renewal {
    pub async fn run(self, stop: CancellationToken) {
        match self {
            Self::Files(watch) => watch.run(stop).await,
            Self::Acme(acme) => acme.run(stop).await,
        }
    }
}

impl Secure {
    pub async fn bind(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Option<Self>> {
        let Some(https) = &config.https else { return Ok(None) };
        let host = config.hosts.first().cloned();
        let source = match &https.certificate {
            CertificateSource::Files(_) => "files",
            CertificateSource::Acme(_) => "acme",
        };
        let roots = tls::roots::known().await.unwrap_or_else(|error| {
            warn!("{error:#}; only Mozilla's roots are trusted");
            tls::roots::mozilla()
        });
        let certificates = Certificates::new(host, source, roots, metrics.clone());
        let renewal = match https.certificate.clone() {
            CertificateSource::Files(files) => {
                Renewal::Files(Watch::start(files, certificates.clone()).await?)
            }
            CertificateSource::Acme(acme) => {
                let hosts = config.hosts.clone();
                let acme = Acme::new(hosts, acme, certificates.clone(), metrics.clone());
                Renewal::Acme(Box::new(acme.await?))
            }
        };
        let challenges = matches!(renewal, Renewal::Acme(_));
        let listener = accept::bind("HTTPS_ADDR", &https.addr).await?;
        let port = https.public_port.unwrap_or(listener.local_addr()?.port());
        let tls = Tls::new(certificates.clone(), challenges, metrics.clone())?;
        Ok(Some(Self { listener, tls, redirect: Redirect { certificates, port }, renewal }))
    }
}
