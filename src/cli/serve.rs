//! The default command: runs the server and prints its addresses.

use std::process::ExitCode;

use roomcast::{
    Server,
    config::{Config, LogFormat, REDIS_PORT, Settings, Transport},
};
use tracing::info;

use super::access::Access;
use crate::signals::Signals;

/// Binds the listeners, prints the addresses, and serves until a signal stops the server. SIGHUP
/// reloads the files with the certificate, keys and tokens, or retries a failed certificate order.
pub async fn run(config: Config, settings: Settings, signals: Signals) -> anyhow::Result<ExitCode> {
    let (format, Signals { stop, mut hangups }) = (config.log_format, signals);
    let Some(server) = stop.run_until_cancelled(Server::bind(config)).await else {
        info!("stopped before the server was ready");
        return Ok(ExitCode::SUCCESS);
    };
    let server = server?;
    announce(&server, format)?;
    let reload = server.reload();
    tokio::spawn(async move {
        loop {
            hangups.next().await;
            reload.run(&settings).await;
        }
    });
    server.run(stop).await?;
    info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Prints the addresses and the access as a few lines of text, or logs them as one JSON record.
pub fn announce(server: &Server, format: LogFormat) -> anyhow::Result<()> {
    let page = page(server)?;
    let admin =
        server.admin_addr().map_or("off".to_owned(), |addr| format!("http://{addr}/status"));
    let (redis, embedded) = (server.redis(), server.is_embedded());
    let at = server.https_addr().map_or_else(|| server.local_addr(), Ok)?.into();
    let access = Access::new(server.config(), &at, server.checks_hosts());
    if format == LogFormat::Json {
        let Access { watch, publish, at, hosts } = access;
        let max_connections = server.max_connections();
        info!(
            page, %redis, embedded, admin, watch, publish, at, hosts, max_connections, "serving"
        );
        return Ok(());
    }
    println!("Roomcast {}", env!("CARGO_PKG_VERSION"));
    println!("  Page    {page}");
    println!("  Access  {access}");
    if embedded {
        println!("  Redis   {redis}, the embedded broker for development: no other Redis is used");
    } else {
        println!("  Redis   {redis}");
    }
    println!("  Status  {admin}");
    let program = std::env::args().next().unwrap_or("roomcast".to_owned());
    let (of_cli, of_ours) = match &redis.transport {
        Transport::Tcp { host, port: REDIS_PORT, tls: false }
            if matches!(host.as_str(), "localhost" | "127.0.0.1") =>
        {
            Default::default()
        }
        Transport::Tcp { host, port, .. } => {
            (format!(" -h {host} -p {port}"), format!(" --redishost {redis}"))
        }
        Transport::Unix(path) => {
            (format!(" -s {}", path.display()), format!(" --redishost {redis}"))
        }
    };
    println!("  Next    redis-cli{of_cli} publish device01 hello");
    println!("          or, without redis-cli: {program}{of_ours} publish device01 hello");
    Ok(())
}

/// The page's URL, as a browser on this machine can open it.
pub fn page(server: &Server) -> anyhow::Result<String> {
    if let Some(origin) = server.https_origin() {
        return Ok(origin);
    }
    let addr = server.local_addr()?;
    Ok(if addr.ip().is_unspecified() {
        format!("http://localhost:{}", addr.port())
    } else {
        format!("http://{addr}")
    })
}
