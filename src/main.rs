//! The program: parse, trace, run, exit code.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    thread,
};

use roomcast::config::{Config, LogFormat, misspelt};
use tokio::runtime::Runtime;
use tracing::error;
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

mod cli;
mod signals;

use cli::Cli;
use signals::Signals;

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
    let Cli { command, settings } = Cli::read();
    let signals = Signals::watch(command.is_none());
    let misspelt = misspelt();
    let config = match Config::read(settings.clone(), &misspelt) {
        Ok(config) => config,
        Err(problems) => {
            cli::refuse(command.as_ref(), &problems);
            return BAD_SETTINGS.into();
        }
    };
    trace(&config);
    log_panics();
    cli::warn_of(command.as_ref(), &misspelt);
    match cli::run(command, config, settings, signals).await {
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

/// Panics go to the log, in its format.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("without a message");
        // What a message quotes can be a payload or a secret.
        let message = message.split(['"', '\'', '`']).next().unwrap_or_default().trim_end();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = thread::current();
        error!(place, thread = thread.name().unwrap_or_default(), "panic: {message}");
    }));
}
