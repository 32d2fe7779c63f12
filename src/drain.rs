//! The end of all connections: one after the other, each with its last bytes, within the grace.
//! Messages go on meanwhile.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::{info, warn};

use crate::{broker::Progress, metrics::Close, stream::Streams};

/// Connections are ended so far apart, unless the grace is too short for it: clients
/// come back at once, and not all of them should come back at the same moment.
const END_EVERY: Duration = Duration::from_millis(10);
/// The part of the grace in which messages that arrived before the stop are handed on first.
const CATCHING_UP: f64 = 0.4;
/// The part of the grace in which connections are asked to end; the rest is for their last bytes.
const ASKING: f64 = 0.8;
/// The part of the grace that a connection's end waits for a moment without a message under way.
const PATIENCE: f64 = 0.05;
/// For connections that are still open after the grace to notice that they have been ended.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

/// Ends all streams after what waits for them has been sent, spread over the grace.
///
/// Each is ended at a moment in which the lanes have handed on all that was received: its close
/// comes after every message that arrived before it. Lanes that are never idle do not hold up the
/// end for longer than a part of the grace. No stream may be added meanwhile.
pub async fn close_all(streams: &Arc<Streams>, lanes: &Progress, deadline: Instant) {
    let begun = Instant::now();
    let grace = deadline.saturating_duration_since(begun);
    let open = streams.all();
    let count = open.len();
    info!(connections = count, "draining {count} connections within {grace:.1?}");
    let end = async {
        let _ = timeout_at(begun + grace.mul_f64(CATCHING_UP), lanes.idle()).await;
        // Timers tick in milliseconds, pauses may be shorter: so they are summed up.
        let mut next = Instant::now();
        let last = begun + grace.mul_f64(ASKING - PATIENCE);
        let asking = last.saturating_duration_since(next);
        let pause = asking.checked_div(count as u32).unwrap_or_default().min(END_EVERY);
        for stream in open {
            sleep_until(next).await;
            let _ = timeout_at(next + grace.mul_f64(PATIENCE), lanes.idle()).await;
            stream.finish();
            next += pause;
        }
        streams.none().await;
    };
    let cut = if timeout_at(deadline, end).await.is_err() {
        let cut = streams.count();
        warn!(connections = cut, "the grace is over; ending what is still open");
        streams.all().iter().for_each(|stream| stream.end(Close::Drain));
        let _ = timeout(CUT_TIMEOUT, streams.none()).await;
        cut
    } else {
        0
    };
    let seconds = begun.elapsed().as_secs_f64();
    info!(connections = count, cut, "{count} connections closed in {seconds:.1} s");
}
