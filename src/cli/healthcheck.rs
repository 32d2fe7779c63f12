//! `roomcast healthcheck`: asks the server on this machine, for containers without curl.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use http::{Request, header::HOST};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use roomcast::config::{Config, ListenAddr};
use tokio::{net::TcpStream, time::timeout};

/// A name that every server answers under, whatever HOSTS says.
const HOST_NAME: &str = "localhost";
/// Platforms give a check a few seconds.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Ask the server on this machine how it is: exit code 0 or 1.
#[derive(Args)]
pub struct Healthcheck {
    /// Whether traffic may be sent here, rather than whether the process lives
    #[arg(long)]
    ready: bool,
}

impl Healthcheck {
    /// Asks over the admin listener, or the public one where that is off.
    pub async fn run(&self, config: &Config) -> anyhow::Result<ExitCode> {
        let (setting, addr) = match &config.admin_addr {
            Some(addr) => ("ADMIN_ADDR", addr),
            None => ("HTTP_ADDR", &config.http_addr),
        };
        let path = if self.ready { "/readyz" } else { "/livez" };
        let (status, answer) =
            ask(addr, path).await.with_context(|| format!("no answer at {addr} ({setting})"))?;
        println!("{}", answer.trim_end());
        Ok(if status == 200 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// GETs a path from this machine's server: status and text.
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
        Err(_) => bail!("none within {} s", TIMEOUT.as_secs()),
    }
}
