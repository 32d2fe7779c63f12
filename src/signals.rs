//! Signals: the first one asks for an orderly end, the second one ends at once, and SIGHUP has files
//! read again.

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// What signals ask for.
pub struct Signals {
    /// An orderly end.
    pub stop: CancellationToken,
    /// That files are read again.
    pub hangups: Hangups,
}

impl Signals {
    /// Installs the handlers. SIGHUP is handled where a server runs: elsewhere the end of a terminal
    /// is the end of the program.
    pub fn watch(is_server: bool) -> Self {
        let hangups = if is_server { Hangups::new() } else { Hangups::default() };
        let (stop, ends) = (CancellationToken::new(), Ends::new());
        tokio::spawn(end(ends, stop.clone()));
        Self { stop, hangups }
    }
}

async fn end(mut ends: Ends, stop: CancellationToken) {
    let name = ends.next().await;
    info!("{name} received: stopping in order; a second signal ends the process at once");
    stop.cancel();
    let name = ends.next().await;
    warn!("{name} received, the second signal: ending at once");
    std::process::exit(1);
}

#[cfg(unix)]
mod unix {
    use std::future::pending;

    use tokio::{
        select,
        signal::unix::{Signal, SignalKind, signal},
    };

    /// What asks for an end. Without a handler a signal ends the process at once, which is all that
    /// is left to do then.
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

        /// The name of the next one.
        pub async fn next(&mut self) -> &'static str {
            select! {
                () = received(&mut self.terminate) => "SIGTERM",
                () = received(&mut self.interrupt) => "SIGINT",
            }
        }
    }

    /// What asks for files to be read again.
    #[derive(Default)]
    pub struct Hangups(Option<Signal>);

    impl Hangups {
        /// From now on, SIGHUP does not end the process.
        pub fn new() -> Self {
            Self(signal(SignalKind::hangup()).ok())
        }

        /// Waits for the next one.
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

    /// What asks for an end.
    pub struct Ends;

    impl Ends {
        pub fn new() -> Self {
            Self
        }

        /// The name of the next one.
        pub async fn next(&mut self) -> &'static str {
            match tokio::signal::ctrl_c().await {
                Ok(()) => "Ctrl-C",
                Err(_) => pending().await,
            }
        }
    }

    /// There is none here.
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
