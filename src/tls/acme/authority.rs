//! Which CA, and whom to trust when talking to it.

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

/// Where Linux says what is mounted where.
const MOUNTS: &str = "/proc/self/mountinfo";

/// The directory of the CA.
pub async fn directory(ca: &Authority, store: &Path) -> String {
    let (authority, folder) = (ca.clone(), store.to_owned());
    let look = move || Ok(is_rehearsal(&authority, &folder));
    // A folder that does not answer is no container's own layer.
    let rehearsal = FileCalls::default().call(look).await.unwrap_or(false);
    if rehearsal {
        warn!(
            "CERT_DIR ({}) IS NOT KEPT OVER RESTARTS OF THIS CONTAINER, so certificates come from Let's Encrypt's staging and NO BROWSER TRUSTS THEM: mount a volume there, or set ACME_CA=production",
            store.display()
        );
    }
    address(ca, rehearsal).to_owned()
}

/// Whether nobody has chosen a CA, and the store would not hold what it issues. What a container
/// keeps in its own layer is gone after a restart: each one would cost one of the five certificates
/// that Let's Encrypt gives out a week, so that it is asked for a rehearsal instead.
pub fn is_rehearsal(ca: &Authority, store: &Path) -> bool {
    *ca == Authority::Auto && is_forgotten(store)
}

/// Where a directory is.
pub fn address(ca: &Authority, rehearsal: bool) -> &str {
    match ca {
        Authority::Url(url) => url,
        Authority::Staging => LETS_ENCRYPT_STAGING_DIRECTORY,
        Authority::Auto if rehearsal => LETS_ENCRYPT_STAGING_DIRECTORY,
        Authority::Production | Authority::Auto => LETS_ENCRYPT_PRODUCTION_DIRECTORY,
    }
}

/// The way to the CA.
pub async fn client(root: Option<&Path>) -> anyhow::Result<Client> {
    let mut roots = roots::known().await?;
    if let Some(file) = root {
        roots::add(&mut roots, "ACME_CA_ROOT", file).await?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .context("TLS versions")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Client::new(config))
}

/// Whether a folder lies on a container's own layer.
pub fn is_forgotten(folder: &Path) -> bool {
    // The folder may not be there yet; what will hold it is.
    let Some(folder) = folder.ancestors().find_map(|folder| fs::canonicalize(folder).ok()) else {
        return false;
    };
    fs::read_to_string(MOUNTS).is_ok_and(|mounts| is_on_overlay(&folder, &mounts))
}

/// `36 35 98:0 / /mnt/point rw,noatime shared:1 - overlay overlay rw,…`; the last of the longest
/// mount points that lead to the folder is the one in force.
fn is_on_overlay(folder: &Path, mounts: &str) -> bool {
    let mounts = mounts.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?.replace("\\040", " ");
        folder.starts_with(&point).then(|| (PathBuf::from(point), kind.split(' ').next()))
    });
    let holds = mounts.max_by_key(|(point, _)| point.components().count());
    // `overlay`, and `fuse.fuse-overlayfs` in containers without root.
    holds.is_some_and(|(_, kind)| kind.is_some_and(|kind| kind.contains("overlay")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounted_folder_is_kept_and_the_layer_of_a_container_is_not() {
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
