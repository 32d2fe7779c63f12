//! Selects the CA, and the root certificates for connections to it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use rustls::{ClientConfig, crypto::ring::default_provider};
use rustls_acme::acme::{LETS_ENCRYPT_PRODUCTION_DIRECTORY, LETS_ENCRYPT_STAGING_DIRECTORY};
use tracing::warn;

use crate::{
    config::Authority,
    file_calls::FileCalls,
    tls::{client::Client, roots},
};

/// Linux's list of mount points.
const MOUNTS: &str = "/proc/self/mountinfo";

/// The directory URL of the CA to use. Warns if it is Let's Encrypt's staging because the store is
/// lost at a restart.
pub async fn directory(ca: &Authority, store: &Path) -> String {
    let (authority, folder) = (ca.clone(), store.to_owned());
    let look = move || Ok(is_rehearsal(&authority, &folder));
    // A folder that does not answer is on a network share, not in the container's own layer.
    let rehearsal = FileCalls::default().call(look).await.unwrap_or(false);
    if rehearsal {
        warn!(
            "CERT_DIR ({}) IS NOT KEPT OVER RESTARTS OF THIS CONTAINER, so certificates come from Let's Encrypt's staging and NO BROWSER TRUSTS THEM: mount a volume there, or set ACME_CA=production",
            store.display()
        );
    }
    address(ca, rehearsal).to_owned()
}

/// Whether to use Let's Encrypt's staging: no CA is configured, and the store does not survive a
/// restart. A container's own layer is lost when the container restarts, so each restart would use
/// up one of the five certificates per week that Let's Encrypt's production issues.
pub fn is_rehearsal(ca: &Authority, store: &Path) -> bool {
    *ca == Authority::Auto && is_forgotten(store)
}

/// The directory URL of a CA; `rehearsal` selects Let's Encrypt's staging for `Auto`.
pub fn address(ca: &Authority, rehearsal: bool) -> &str {
    match ca {
        Authority::Url(url) => url,
        Authority::Staging => LETS_ENCRYPT_STAGING_DIRECTORY,
        Authority::Auto if rehearsal => LETS_ENCRYPT_STAGING_DIRECTORY,
        Authority::Production | Authority::Auto => LETS_ENCRYPT_PRODUCTION_DIRECTORY,
    }
}

/// Creates the HTTPS client for the CA. `root` is the file of `ACME_CA_ROOT`, if it is set.
///
/// # Errors
///
/// That file or `SSL_CERT_FILE` cannot be read or parsed.
pub async fn client(root: Option<&Path>) -> anyhow::Result<Client> {
    let mut roots = roots::known().await?;
    if let Some(file) = root {
        roots::add(&mut roots, "ACME_CA_ROOT", file).await?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .context("cannot select the TLS versions")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Client::new(config))
}

/// Whether a folder is in a container's own layer, which is lost at a restart. False if unknown.
/// Blocks.
pub fn is_forgotten(folder: &Path) -> bool {
    // The folder may not exist yet: check the nearest ancestor that does.
    let Some(folder) = folder.ancestors().find_map(|folder| fs::canonicalize(folder).ok()) else {
        return false;
    };
    fs::read_to_string(MOUNTS).is_ok_and(|mounts| is_on_overlay(&folder, &mounts))
}

/// Whether the mount that holds `folder` is an overlay. `mounts` has lines like
/// `36 35 98:0 / /mnt/point rw,noatime shared:1 - overlay overlay rw,…`. The longest mount point
/// that contains the folder applies; of several equal ones, the last.
fn is_on_overlay(folder: &Path, mounts: &str) -> bool {
    let mounts = mounts.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?.replace("\\040", " ");
        folder.starts_with(&point).then(|| (PathBuf::from(point), kind.split(' ').next()))
    });
    let holds = mounts.max_by_key(|(point, _)| point.components().count());
    // `overlay`, or `fuse.fuse-overlayfs` in rootless containers.
    holds.is_some_and(|(_, kind)| kind.is_some_and(|kind| kind.contains("overlay")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_on_an_overlay_mount_are_forgotten() {
        let mounts = "\
            1 0 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/a:/b\n\
            2 1 0:51 / /proc rw - proc proc rw\n\
            3 1 8:1 /var/lib/x /data rw - ext4 /dev/sda1 rw\n\
            4 1 0:52 / /with\\040space rw - cifs //share rw\n";
        for (folder, forgotten) in [
            ("/root/.local/share/roomcast", true),
            ("/data/certs", false),
            ("/data", false),
            ("/database", true),
            ("/with space/x", false),
        ] {
            assert_eq!(is_on_overlay(Path::new(folder), mounts), forgotten, "{folder}");
        }
        let rootless = "1 0 0:50 / / rw - fuse.fuse-overlayfs fuse-overlayfs rw\n";
        assert!(is_on_overlay(Path::new("/x"), rootless));
        assert!(!is_on_overlay(Path::new("/x"), "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"));
    }
}
