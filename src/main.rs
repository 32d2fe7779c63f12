//! The program: reads the settings, starts the log, runs a command and returns its exit code.

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

/// Gives memory back to the kernel after a burst; see benches/README.md.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Exit code for bad settings: restarting does not help until one is changed. The same code as for
/// an unknown flag.
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
    // Calls to a file share or a name server may hang in blocking threads: do not wait for them.
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
    // Only this crate's lines: what libraries log at these levels can contain payloads and secrets.
    let filter = Targets::new().with_target("roomcast", config.log_level);
    tracing_subscriber::registry().with(layer.with_filter(filter)).init();
}

/// Writes panics to the log, in its format.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("without a message");
        // Quoted parts of a message can be payloads or secrets: log only what precedes the first.
        let message = message.split(['"', '\'', '`']).next().unwrap_or_default().trim_end();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = thread::current();
        error!(place, thread = thread.name().unwrap_or_default(), "panic: {message}");
    }));
}
