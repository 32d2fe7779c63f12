//! The end of all connections: one after the other, each with its last bytes, within the grace.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::warn;

use crate::{metrics::Close, stream::Streams};

/// Connections are ended so far apart, unless the grace is too short for it: clients
/// come back at once, and not all of them should come back at the same moment.
const END_EVERY: Duration = Duration::from_millis(10);
/// The part of the grace in which connections are asked to end; the rest is for their last bytes.
const ASKING: f64 = 0.8;
/// For what is left after the grace to notice that it has been ended.
pub const AFTER_GRACE: Duration = Duration::from_secs(2);

/// Ends all streams after what waits for them has been sent, spread over the grace.
pub async fn finish(streams: &Arc<Streams>, deadline: Instant) {
    let open = streams.all();
    let grace = deadline.saturating_duration_since(Instant::now());
    let pause = grace.mul_f64(ASKING).checked_div(open.len() as u32).unwrap_or_default();
    let end = async {
        // Timers tick in milliseconds, pauses may be shorter: so they are summed up.
        let mut next = Instant::now();
        for stream in open {
            stream.finish();
            next += pause.min(END_EVERY);
            sleep_until(next).await;
        }
        streams.none().await;
    };
    if timeout_at(deadline, end).await.is_err() {
        warn!(connections = streams.count(), "the grace is over; ending what is still open");
        streams.all().iter().for_each(|stream| stream.end(Close::Drain));
        let _ = timeout(AFTER_GRACE, streams.none()).await;
    }
}
