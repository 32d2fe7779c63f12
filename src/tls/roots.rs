//! Whom to trust: Mozilla's roots, because an image may have none, and those that are named besides.

use std::path::Path;

use anyhow::{Context, ensure};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::file_calls::FileCalls;

/// Where others look for more roots, too.
const MORE_ROOTS: &str = "SSL_CERT_FILE";

/// What is built in.
pub fn mozilla() -> RootCertStore {
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}

/// The same, and those of `SSL_CERT_FILE`, if it is set.
pub async fn known() -> anyhow::Result<RootCertStore> {
    let mut roots = mozilla();
    if let Some(file) = std::env::var_os(MORE_ROOTS).filter(|file| !file.is_empty()) {
        add(&mut roots, MORE_ROOTS, Path::new(&file)).await?;
    }
    Ok(roots)
}

/// Adds the roots of a file, PEM; an error names the setting.
pub async fn add(roots: &mut RootCertStore, setting: &str, file: &Path) -> anyhow::Result<()> {
    let name = || format!("{setting}: cannot use {}", file.display());
    let pem = FileCalls::default().read(file).await.with_context(name)?;
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().with_context(name)?;
    let (added, _) = roots.add_parsable_certificates(found);
    ensure!(added > 0, "{}: it holds no root in PEM format", name());
    Ok(())
}
