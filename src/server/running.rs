//! The running server: serving until it is asked to stop, and the drain after that.

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
    conn::{connection::Connections, drain},
    health::Health,
    ingest::Progress,
};

/// Maximum grace after a core task has failed: viewers may miss messages until they have connected
/// to another server.
const FAILED_GRACE: Duration = Duration::from_secs(2);

/// Time after the connections are closed, for handing on the last messages and writing the history.
/// Together with 1 s for cutting connections, a stop takes up to 3 s more than the grace; platforms
/// are asked to allow 4 s more.
const AFTER_GRACE: Duration = Duration::from_secs(2);

/// Tokens that stop one part each, in the order in which a drain cancels them.
#[derive(Default)]
pub struct Stops {
    /// Stops accepting public connections, and the certificate's renewal.
    pub accepting: CancellationToken,
    /// Stops the subscription, and with it the lanes.
    pub source: CancellationToken,
    /// Stops the tasks that viewers and the source need as long as they are connected.
    pub serving: CancellationToken,
    /// Stops the admin listener, which answers until the end.
    pub admin: CancellationToken,
}

/// A running server: its tasks, and the tokens that stop them.
///
/// [`Self::serve`] waits for the stop; [`Self::drain`] then consumes the server and ends its parts
/// in order.
pub struct Running {
    pub core: CoreTasks,
    pub stops: Stops,
    pub health: Arc<Health>,
    pub streams: Arc<Connections>,
    pub progress: Progress,
    pub grace: Duration,
    pub accepting: Vec<JoinHandle<()>>,
    pub source: Vec<JoinHandle<()>>,
    pub serving: Vec<JoinHandle<()>>,
    pub renewal: Option<JoinHandle<()>>,
}

impl Running {
    /// Waits until `stop` is cancelled or a core task has failed. Cancel safe.
    pub async fn serve(&self, stop: &CancellationToken) {
        select! {
            () = stop.cancelled() => {}
            () = self.core.failed() => {}
        }
    }

    /// Ends the parts in order: readiness; accepting; connections, spread over the grace, while
    /// messages go on; the subscription; the lanes, once they are empty; all other tasks.
    ///
    /// # Errors
    ///
    /// Returns the failure of the core task that has caused the stop, if one has.
    pub async fn drain(self) -> anyhow::Result<()> {
        let Self { core, stops, streams, progress, .. } = self;
        self.health.drain();
        let grace = match core.result() {
            Ok(()) => self.grace,
            Err(_) => self.grace.min(FAILED_GRACE),
        };
        let deadline = Instant::now() + grace;
        stops.accepting.cancel();
        // After this, no connection can be added to those that are closed now.
        let _ = timeout_at(deadline, join_all(self.accepting)).await;
        drain::close_all(&streams, &progress, deadline).await;

        let deadline = deadline.max(Instant::now()) + AFTER_GRACE;
        stops.source.cancel();
        if timeout_at(deadline, join_all(self.source)).await.is_err() {
            warn!("the last messages were not handed on in time; viewers may have missed some");
        }
        self.health.failed("the server is stopping");
        stops.serving.cancel();
        let ends = join_all(self.serving.into_iter().chain(self.renewal));
        if timeout_at(deadline, ends).await.is_err() {
            warn!("not all tasks have ended in time; the process ends without them");
        }
        stops.admin.cancel();
        core.result()
    }
}
