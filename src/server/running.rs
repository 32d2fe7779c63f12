//! A server that runs: until it is asked to stop, and the drain after that.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    select,
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::core_tasks::CoreTasks;
use crate::{
    conn::{drain, stream::Streams},
    health::Health,
    ingest::Progress,
};

/// The grace when a core task has failed: viewers may be missing messages until they are elsewhere.
const FAILED_GRACE: Duration = Duration::from_secs(2);

/// After the viewers, for the last messages to be handed on and the history to be written. With what
/// connections have that are cut, an end takes up to 3 s more than the grace: platforms are told 4.
const AFTER_GRACE: Duration = Duration::from_secs(2);

/// What ends which part, in the order in which a drain uses them.
#[derive(Default)]
pub struct Stops {
    /// New connections, and the certificate's renewal.
    pub accepting: CancellationToken,
    /// The subscription, and with it the lanes.
    pub source: CancellationToken,
    /// What viewers and the source need as long as they are there.
    pub serving: CancellationToken,
    /// The listener for operators: it answers until the end.
    pub admin: CancellationToken,
}

/// A server that runs.
pub struct Running {
    pub core: CoreTasks,
    pub stops: Stops,
    pub health: Arc<Health>,
    pub streams: Arc<Streams>,
    pub progress: Progress,
    pub grace: Duration,
    pub accepting: Vec<JoinHandle<()>>,
    pub source: Vec<JoinHandle<()>>,
    pub serving: Vec<JoinHandle<()>>,
    pub renewal: Option<JoinHandle<()>>,
}

impl Running {
    /// Serves until `stop`, or until a core task has failed.
    pub async fn serve(&self, stop: &CancellationToken) {
        select! {
            () = stop.cancelled() => {}
            () = self.core.failed() => {}
        }
    }

    /// Ends everything in order: readiness, new connections, viewers over the grace while messages
    /// go on, the subscription, what it has received, the rest.
    pub async fn drain(self) -> anyhow::Result<()> {
        let Self { core, stops, streams, progress, .. } = self;
        self.health.drain();
        let grace = match core.result() {
            Ok(()) => self.grace,
            Err(_) => self.grace.min(FAILED_GRACE),
        };
        let deadline = Instant::now() + grace;
        stops.accepting.cancel();
        // Afterwards no connection can be added to those that are closed now.
        let _ = timeout_at(deadline, join_all(self.accepting)).await;
        drain::close_all(&streams, &progress, deadline).await;

        let deadline = deadline.max(Instant::now()) + AFTER_GRACE;
        stops.source.cancel();
        if timeout_at(deadline, join_all(self.source)).await.is_err() {
            warn!("the last messages were not handed on in time");
        }
        self.health.failed("the server is stopping");
        stops.serving.cancel();
        let ends = join_all(self.serving.into_iter().chain(self.renewal));
        if timeout_at(deadline, ends).await.is_err() {
            warn!("not all tasks have ended in time");
        }
        stops.admin.cancel();
        core.result()
    }
}
