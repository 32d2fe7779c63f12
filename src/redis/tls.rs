//! TLS to a `rediss://` Redis.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use rustls::{ClientConfig, RootCertStore};

use crate::{
    config::RedisTlsFiles,
    tls::{pem, roots},
};

/// The TLS configuration: the trusted roots and, if set, the client certificate. The files are read
/// for each connection, so that they can be replaced while the server runs.
///
/// It takes as long as the files do: the caller sets the limit.
///
/// # Errors
/// If a file cannot be read or used; each error names the setting, and its file unless it could not
/// be read in time.
pub async fn client(files: &RedisTlsFiles) -> anyhow::Result<Arc<ClientConfig>> {
    let mut trusted = RootCertStore::empty();
    match &files.ca {
        Some(ca) => roots::add(&mut trusted, "REDIS_CA", ca).await?,
        None => trusted = roots::known().await?,
    }
    let config = ClientConfig::builder().with_root_certificates(trusted);
    Ok(Arc::new(match &files.client {
        None => config.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = pem::certificates(&read("REDIS_CERT", cert).await?);
            let chain = chain.with_context(|| unusable("REDIS_CERT", cert))?;
            let key_der = pem::private_key(&read("REDIS_KEY", key).await?);
            let key_der = key_der.with_context(|| unusable("REDIS_KEY", key))?;
            let config = config.with_client_auth_cert(chain, key_der);
            config.with_context(|| unusable("REDIS_KEY", key))?
        }
    }))
}

async fn read(setting: &str, file: &Path) -> anyhow::Result<Vec<u8>> {
    tokio::fs::read(file).await.with_context(|| unusable(setting, file))
}

fn unusable(setting: &str, file: &Path) -> String {
    format!("{setting}: cannot use {}", file.display())
}
