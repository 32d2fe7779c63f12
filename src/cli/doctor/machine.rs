//! This machine: free ports, enough files, folders that can be written.

use std::{io, path::Path};

use roomcast::{
    config::{Config, ListenAddr},
    inspect::{Capacity, bind, is_forgotten, try_folder},
};
use tokio::task::spawn_blocking;

use super::Finding;
use crate::cli::healthcheck;

pub async fn look(config: &Config) -> Vec<Finding> {
    let mut findings = ports(config).await;
    findings.push(files(config));
    if let Some(folder) = &config.state_dir {
        findings.push(self::folder("STATE_DIR", folder).await);
    }
    findings
}

/// Held until all have been tried, as the server holds them: no two can be the same.
async fn ports(config: &Config) -> Vec<Finding> {
    let addrs = [
        ("HTTP_ADDR", Some(&config.http_addr)),
        ("HTTPS_ADDR", config.https.as_ref().map(|https| &https.addr)),
        ("ADMIN_ADDR", config.admin_addr.as_ref()),
    ];
    let (mut held, mut findings, mut runs) = (Vec::new(), Vec::new(), false);
    for (setting, addr) in addrs.into_iter().filter_map(|(name, addr)| Some((name, addr?))) {
        match bind(setting, addr).await {
            Ok(listener) => {
                held.push(listener);
                findings.push(Finding::ok(setting, format!("{addr} is free")));
            }
            Err(error) => match error.downcast_ref().map(io::Error::kind) {
                // Whether that one speaks TLS is not for us to check: it serves both.
                Some(io::ErrorKind::AddrInUse) if setting == "HTTPS_ADDR" && runs => {
                    let text = format!("{addr} is in use, as HTTP_ADDR is by a roomcast that runs");
                    findings.push(Finding::ok(setting, text));
                }
                Some(io::ErrorKind::AddrInUse) => {
                    runs = is_ours(addr).await;
                    findings.push(in_use(setting, addr, runs));
                }
                Some(io::ErrorKind::PermissionDenied) => {
                    findings.push(Finding::fail(setting, forbidden(setting, addr)));
                }
                _ => findings.push(Finding::fail(setting, format!("{error:#}"))),
            },
        }
    }
    findings
}

async fn is_ours(addr: &ListenAddr) -> bool {
    healthcheck::ask(addr, "/livez").await.is_ok_and(|answer| answer == (200, "live\n".to_owned()))
}

fn in_use(setting: &str, addr: &ListenAddr, ours: bool) -> Finding {
    if ours {
        Finding::ok(setting, format!("{addr} is in use, by a roomcast that runs"))
    } else {
        let text = format!(
            "{addr} is in use, and not by a roomcast that answers: end what listens there, or set {setting} to another address"
        );
        Finding::fail(setting, text)
    }
}

fn forbidden(setting: &str, addr: &ListenAddr) -> String {
    let other = if addr.port == 443 { 8443 } else { 8080 };
    format!(
        "{addr} may not be listened at by this user: ports below 1024 want root or CAP_NET_BIND_SERVICE; or set {setting}=:{other} and have port {} mapped to it",
        addr.port
    )
}

fn files(config: &Config) -> Finding {
    let capacity = Capacity::new(config.limits.connections);
    match capacity.shortage() {
        Some(shortage) => Finding::warn("MAX_CONNECTIONS", shortage),
        None => {
            let Capacity { files, connections, .. } = capacity;
            let text = format!("{connections} connections; {files} files may be open");
            Finding::ok("MAX_CONNECTIONS", text)
        }
    }
}

/// Whether a folder takes records, and outlives the container.
pub async fn folder(setting: &str, folder: &Path) -> Finding {
    let (path, shown) = (folder.to_owned(), folder.display());
    // A share may hang.
    let look = move || anyhow::Ok((try_folder(&path)?, is_forgotten(&path), path.is_dir()));
    let looked = spawn_blocking(look).await;
    let ((), forgotten, there) = match looked.map_err(anyhow::Error::new).flatten() {
        Ok(looked) => looked,
        Err(error) => {
            let text =
                format!("{shown}: {error:#}; set {setting} to a folder that this user can write");
            return Finding::fail(setting, text);
        }
    };
    let text = format!("{shown} can be {}", if there { "written" } else { "made" });
    if forgotten {
        let text = format!("{text}, but is gone with this container: mount a volume there");
        return Finding::warn(setting, text);
    }
    Finding::ok(setting, text)
}
