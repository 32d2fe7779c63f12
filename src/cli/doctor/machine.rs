//! Checks of this machine: free ports, the open-file limit, and folders that can be written.

use std::{io, path::Path};

use roomcast::{
    config::{Config, ListenAddr},
    inspect::{Capacity, bind, is_forgotten, try_folder},
};
use tokio::task::spawn_blocking;

use super::Finding;
use crate::cli::healthcheck;

/// Checks the listening addresses, the open-file limit and the folder of the saved history.
pub async fn look(config: &Config) -> Vec<Finding> {
    let mut findings = ports(config).await;
    findings.push(files(config));
    if let Some(folder) = &config.state_dir {
        findings.push(self::folder("STATE_DIR", folder).await);
    }
    findings
}

/// Binds all listening addresses. The listeners are kept until all addresses have been tried, as in
/// the server, so that two settings with the same address are found.
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
                // A roomcast answers at HTTP_ADDR, so it is assumed to serve HTTPS_ADDR too,
                // without a TLS handshake.
                Some(io::ErrorKind::AddrInUse) if setting == "HTTPS_ADDR" && runs => {
                    let text =
                        format!("{addr} is in use, as HTTP_ADDR is by a roomcast that is running");
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
        Finding::ok(setting, format!("{addr} is in use, by a roomcast that is running"))
    } else {
        let text = format!(
            "{addr} is in use, and not by a roomcast that answers: stop the program that listens there, or set {setting} to another address"
        );
        Finding::fail(setting, text)
    }
}

fn forbidden(setting: &str, addr: &ListenAddr) -> String {
    let other = if addr.port == 443 { 8443 } else { 8080 };
    format!(
        "this user may not listen at {addr}: run as root or with CAP_NET_BIND_SERVICE, which ports below 1024 require, or set {setting}=:{other} and map port {} to it",
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

/// Checks whether a folder can be written, and whether it outlives the container.
pub async fn folder(setting: &str, folder: &Path) -> Finding {
    let (path, shown) = (folder.to_owned(), folder.display());
    // The calls block, for long if the folder is on a network share that does not answer.
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
        let text = format!("{text}, but is lost with this container: mount a volume there");
        return Finding::warn(setting, text);
    }
    Finding::ok(setting, text)
}
