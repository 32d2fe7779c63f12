//! `roomcast healthcheck`: checks the server on this machine over HTTP, for containers without
//! curl.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use http::{Request, header::HOST};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use roomcast::config::{Config, ListenAddr};
use tokio::{net::TcpStream, time::timeout};

/// The host name in requests: every server accepts it, whatever HOSTS is.
const HOST_NAME: &str = "localhost";
/// Time limit of a check, below the few seconds that container platforms allow.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Check the server on this machine: exit code 0 if it is healthy, else 1.
#[derive(Args)]
pub struct Healthcheck {
    /// Check whether traffic may be sent to the server, instead of whether the process is alive
    #[arg(long)]
    ready: bool,
}

impl Healthcheck {
    /// Checks over the admin listener, or over the public one if ADMIN_ADDR is `off`, and prints
    /// the answer.
    pub async fn run(&self, config: &Config) -> anyhow::Result<ExitCode> {
        let (setting, addr) = match &config.admin_addr {
            Some(addr) => ("ADMIN_ADDR", addr),
            None => ("HTTP_ADDR", &config.http_addr),
        };
        let path = if self.ready { "/readyz" } else { "/livez" };
        let (status, answer) =
            ask(addr, path).await.with_context(|| format!("cannot check {addr} ({setting})"))?;
        println!("{}", answer.trim_end());
        Ok(if status == 200 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Sends a GET request for `path` to the server on this machine. Returns the status and the body.
///
/// # Errors
/// The connection fails, or no answer comes within 3 s.
pub async fn ask(addr: &ListenAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let host = match addr.host.as_deref() {
        None | Some("0.0.0.0" | "::") => "localhost",
        Some(host) => host,
    };
    let asking = async {
        let stream = TcpStream::connect((host, addr.port)).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get(path).header(HOST, HOST_NAME).body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let text = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&text).into_owned()))
    };
    match timeout(TIMEOUT, asking).await {
        Ok(answer) => answer,
        Err(_) => bail!("no answer within {} s", TIMEOUT.as_secs()),
    }
}
