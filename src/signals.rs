//! Signals: the first SIGTERM or SIGINT asks the command to end in order, the second one ends the
//! process at once, and SIGHUP makes the server read files again.

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The requests that signals make.
pub struct Signals {
    /// Cancelled by the first SIGTERM, SIGINT or Ctrl-C: the command should end in order.
    pub stop: CancellationToken,
    /// SIGHUPs, each of which asks for files to be read again.
    pub hangups: Hangups,
}

impl Signals {
    /// Installs the handlers and spawns a task for them. SIGHUP is handled only by a server: other
    /// commands end when their terminal is closed.
    pub fn watch(is_server: bool) -> Self {
        let hangups = if is_server { Hangups::new() } else { Hangups::default() };
        let (stop, ends) = (CancellationToken::new(), Ends::new());
        tokio::spawn(end(ends, stop.clone()));
        Self { stop, hangups }
    }
}

async fn end(mut ends: Ends, stop: CancellationToken) {
    let name = ends.next().await;
    info!("{name} received: stopping; a second signal ends the process at once");
    stop.cancel();
    let name = ends.next().await;
    warn!("{name} received, the second signal: ending the process at once");
    std::process::exit(1);
}

#[cfg(unix)]
mod unix {
    use std::future::pending;

    use tokio::{
        select,
        signal::unix::{Signal, SignalKind, signal},
    };

    /// The signals that end the process. If a handler cannot be installed, its signal keeps the
    /// default action and ends the process at once.
    pub struct Ends {
        terminate: Option<Signal>,
        interrupt: Option<Signal>,
    }

    impl Ends {
        pub fn new() -> Self {
            let [terminate, interrupt] =
                [SignalKind::terminate(), SignalKind::interrupt()].map(|kind| signal(kind).ok());
            Self { terminate, interrupt }
        }

        /// Waits for the next signal and returns its name. Cancel safe.
        pub async fn next(&mut self) -> &'static str {
            select! {
                () = received(&mut self.terminate) => "SIGTERM",
                () = received(&mut self.interrupt) => "SIGINT",
            }
        }
    }

    /// The SIGHUPs that arrive.
    #[derive(Default)]
    pub struct Hangups(Option<Signal>);

    impl Hangups {
        /// Installs the handler: from now on, SIGHUP does not end the process.
        pub fn new() -> Self {
            Self(signal(SignalKind::hangup()).ok())
        }

        /// Waits for the next SIGHUP; for ever without a handler. Cancel safe.
        pub async fn next(&mut self) {
            received(&mut self.0).await;
        }
    }

    async fn received(signal: &mut Option<Signal>) {
        match signal {
            Some(signal) => drop(signal.recv().await),
            None => pending().await,
        }
    }
}

#[cfg(not(unix))]
mod other {
    use std::future::pending;

    /// The signals that end the process: Ctrl-C.
    pub struct Ends;

    impl Ends {
        pub fn new() -> Self {
            Self
        }

        /// Waits for the next Ctrl-C and returns its name.
        pub async fn next(&mut self) -> &'static str {
            match tokio::signal::ctrl_c().await {
                Ok(()) => "Ctrl-C",
                Err(_) => pending().await,
            }
        }
    }

    /// This platform has no SIGHUP: waiting for it never ends.
    #[derive(Default)]
    pub struct Hangups;

    impl Hangups {
        pub fn new() -> Self {
            Self
        }

        pub async fn next(&mut self) {
            pending().await
        }
    }
}

#[cfg(not(unix))]
use other::Ends;
#[cfg(not(unix))]
pub use other::Hangups;
#[cfg(unix)]
use unix::Ends;
#[cfg(unix)]
pub use unix::Hangups;
