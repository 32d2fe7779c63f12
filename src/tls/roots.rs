//! Trusted root certificates: Mozilla's, built in because a container image may have none, and
//! those of files that settings name.

use std::path::Path;

use anyhow::{Context, ensure};
use rustls::RootCertStore;

use super::pem;
use crate::file_calls::FileCalls;

/// The variable for additional roots that OpenSSL and other programs also read.
const MORE_ROOTS: &str = "SSL_CERT_FILE";

/// Mozilla's root certificates, as of the version of webpki-roots.
pub fn mozilla() -> RootCertStore {
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}

/// Mozilla's root certificates and those of `SSL_CERT_FILE`, if it is set. An error names the
/// variable and the file.
pub async fn known() -> anyhow::Result<RootCertStore> {
    let mut roots = mozilla();
    if let Some(file) = std::env::var_os(MORE_ROOTS).filter(|file| !file.is_empty()) {
        add(&mut roots, MORE_ROOTS, Path::new(&file)).await?;
    }
    Ok(roots)
}

/// Adds the root certificates of a PEM file. `setting` is the name of the setting for errors.
///
/// # Errors
///
/// The file cannot be read within 10 s or parsed, or it holds no root certificate.
pub async fn add(roots: &mut RootCertStore, setting: &str, file: &Path) -> anyhow::Result<()> {
    let name = || format!("{setting}: cannot use {}", file.display());
    let content = FileCalls::default().read(file).await.with_context(name)?;
    let found = pem::certificates(&content).with_context(name)?;
    let (added, _) = roots.add_parsable_certificates(found);
    ensure!(added > 0, "{}: it holds no root certificate in PEM", name());
    Ok(())
}
