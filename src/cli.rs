//! The commands, one file each. Without a command, the server runs (`serve`).

use std::process::ExitCode;

use anyhow::bail;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use roomcast::config::{BadSettings, Config, Misspelt, Settings};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::signals::Signals;

mod access;
mod bench;
mod demo;
mod doctor;
mod healthcheck;
mod licences;
mod publish;
mod serve;
mod token;

/// Forwards messages from Redis Pub/Sub to browsers over Socket.IO.
///
/// Every Redis channel is a Socket.IO room: a client that joins `device01` receives what
/// `redis-cli publish device01 hello` publishes. Without a command, the server runs.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub settings: Settings,
}

impl Cli {
    /// Parses the command line and the environment; exits the process if they are invalid. The help
    /// does not show the values of variables, since each may hold a secret, even if only by
    /// mistake.
    pub fn read() -> Self {
        let command = Self::command().mut_args(|arg| arg.hide_env_values(true));
        Self::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
    }
}

#[derive(Subcommand)]
pub enum Command {
    /// Publish simulated telemetry of five devices; start a server too if none answers
    Demo,
    /// Publish on a channel and print how many subscribers Redis counted
    Publish(publish::Publish),
    /// Connect many clients to a server, publish to them, and measure throughput and latency
    Bench(Box<bench::Bench>),
    /// Print a token that is signed with JWT_SECRET, and a link that opens the page with it
    Token(token::Token),
    /// Check the server on this machine: exit code 0 if it is healthy, else 1
    Healthcheck(healthcheck::Healthcheck),
    /// Check everything that a server needs on this machine, without changing anything: exit code 1
    /// if a check fails
    Doctor(doctor::Doctor),
    /// Print the licences of Roomcast and of the libraries that are built into it
    Licences,
}

/// Reports the invalid settings in the format of the command: `doctor` prints findings to standard
/// output, the others print a text to standard error.
pub fn refuse(command: Option<&Command>, problems: &BadSettings) {
    match command {
        Some(Command::Doctor(doctor)) => doctor.refuse(problems),
        _ => eprintln!("roomcast: {problems}"),
    }
}

/// Logs a warning for each variable that looks like a misspelt setting. Not for `doctor`, which has
/// findings for them, and not for `healthcheck`, which runs every few seconds.
pub fn warn_of(command: Option<&Command>, misspelt: &[Misspelt]) {
    if !matches!(command, Some(Command::Doctor(_) | Command::Healthcheck(_))) {
        for name in misspelt {
            warn!("{} {name}", name.variable);
        }
    }
}

/// Runs a command until it ends or a signal stops it. `config` was made from `settings`.
pub async fn run(
    command: Option<Command>,
    config: Config,
    settings: Settings,
    signals: Signals,
) -> anyhow::Result<ExitCode> {
    let stop = signals.stop.clone();
    match command {
        None => serve::run(config, settings, signals).await,
        Some(Command::Demo) => demo::run(config, stop).await,
        Some(Command::Publish(publish)) => or_stop(&stop, publish.run(&config)).await,
        Some(Command::Bench(bench)) => or_stop(&stop, bench.run(&config)).await,
        Some(Command::Token(token)) => token.run(&config),
        Some(Command::Healthcheck(healthcheck)) => or_stop(&stop, healthcheck.run(&config)).await,
        Some(Command::Doctor(doctor)) => or_stop(&stop, doctor.run(&config)).await,
        Some(Command::Licences) => licences::run(),
    }
}

async fn or_stop(
    stop: &CancellationToken,
    command: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    stop.run_until_cancelled(command).await.unwrap_or_else(|| bail!("stopped by a signal"))
}
