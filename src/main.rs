//! The program: parse, trace, run, exit code.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    sync::Arc,
};

use roomcast::config::{Config, LogFormat, misspelt};
use tokio::{runtime::Runtime, sync::Notify};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

mod cli;

use cli::Cli;

/// Somebody has to change a setting; the same code as for a flag that does not exist.
const BAD_SETTINGS: u8 = 2;

fn main() -> ExitCode {
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("roomcast: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run());
    // A share or a name server that hangs must not hold up the end.
    runtime.shutdown_background();
    code
}

async fn run() -> ExitCode {
    let cli = Cli::read();
    let misspelt = misspelt();
    let config = match Config::read(cli.settings, &misspelt) {
        Ok(config) => config,
        Err(problems) => {
            cli::refuse(cli.command.as_ref(), &problems);
            return BAD_SETTINGS.into();
        }
    };
    trace(&config);
    cli::warn_of(cli.command.as_ref(), &misspelt);
    let stop = CancellationToken::new();
    tokio::spawn(watch_signals(stop.clone()));
    match cli::run(cli.command, config, stop).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("roomcast: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn trace(config: &Config) {
    let format = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let layer = match config.log_format {
        LogFormat::Text => format.with_target(false).with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => format.json().flatten_event(true).boxed(),
    };
    // Ours alone: what libraries log at these levels can hold payloads and secrets.
    let filter = Targets::new().with_target("roomcast", config.log_level);
    tracing_subscriber::registry().with(layer.with_filter(filter)).init();
}

/// The first signal asks for an orderly end, the second one ends at once.
async fn watch_signals(stop: CancellationToken) {
    signal().await;
    stop.cancel();
    signal().await;
    std::process::exit(1);
}

#[cfg(unix)]
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        // Without handlers a signal ends the process at once, which is all that is left to do.
        _ => std::future::pending().await,
    }
}

/// Only where it has a meaning: elsewhere the end of a terminal is the end of the program.
#[cfg(unix)]
async fn watch_hangups(again: Arc<Notify>) {
    use tokio::signal::unix::{SignalKind, signal};
    if let Ok(mut hangups) = signal(SignalKind::hangup()) {
        while hangups.recv().await.is_some() {
            again.notify_one();
        }
    }
}

#[cfg(not(unix))]
async fn watch_hangups(_: Arc<Notify>) {}

#[cfg(not(unix))]
async fn signal() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
