//! The commands: serve, which is what happens without one, and a file for each other.

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

/// Shows what is published on Redis, live, in browsers.
///
/// Every Redis channel is a Socket.IO room: whoever joins `device01` sees what
/// `redis-cli publish device01 hello` sends. Without a command, the server runs.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub settings: Settings,
}

impl Cli {
    /// The command line and the environment; anything wrong with them ends the process. The help
    /// shows no variable's value: each may hold a secret, if only by mistake.
    pub fn read() -> Self {
        let command = Self::command().mut_args(|arg| arg.hide_env_values(true));
        Self::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
    }
}

#[derive(Subcommand)]
pub enum Command {
    /// Publish simulated telemetry of five devices, with a server in this process if none answers
    Demo,
    /// Publish on a channel and print how many subscribers Redis counted
    Publish(publish::Publish),
    /// Open many viewers, publish to them, and count what comes, how fast and how late
    Bench(Box<bench::Bench>),
    /// Print a token signed with JWT_SECRET, and the link that opens the page with it
    Token(token::Token),
    /// Ask the server on this machine how it is: exit code 0 or 1
    Healthcheck(healthcheck::Healthcheck),
    /// Look at everything that a server needs here, without changing it: exit code 1 if something
    /// fails
    Doctor(doctor::Doctor),
    /// Print the licences of Roomcast and of the libraries in it
    Licences,
}

/// Says which settings are wrong, where the command has to say it.
pub fn refuse(command: Option<&Command>, problems: &BadSettings) {
    match command {
        Some(Command::Doctor(doctor)) => doctor.refuse(problems),
        _ => eprintln!("roomcast: {problems}"),
    }
}

/// Says which variables look like misspelt settings; `doctor` has findings for that, and a health
/// check runs every few seconds.
pub fn warn_of(command: Option<&Command>, misspelt: &[Misspelt]) {
    if !matches!(command, Some(Command::Doctor(_) | Command::Healthcheck(_))) {
        for name in misspelt {
            warn!("{} {name}", name.variable);
        }
    }
}

/// Runs a command until its end or a signal; `settings` are those that `config` was made of.
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
    stop.run_until_cancelled(command).await.unwrap_or_else(|| bail!("stopped"))
}
