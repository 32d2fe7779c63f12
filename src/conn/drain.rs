//! The end of all connections: one after the other, each with its last bytes, within the grace.
//! Messages go on meanwhile.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::{info, warn};

use crate::{
    conn::stream::{Control, Streams},
    ingest::Progress,
    metrics::Close,
};

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

/// How often streams that have to wait for a moment without messages are asked again.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// Ends all streams after what waits for them has been sent, spread over the grace. No stream may be
/// added meanwhile.
///
/// Each ends at a moment in which the lanes have handed on all that was received: its close comes
/// after every message that arrived before it. Lanes that are never idle do not hold up the end for
/// longer than a part of the grace.
pub async fn close_all(streams: &Arc<Streams>, lanes: &Progress, deadline: Instant) {
    let begun = Instant::now();
    let grace = deadline.saturating_duration_since(begun);
    let count = streams.count();
    info!(connections = count, "draining {count} connections within {grace:.1?}");
    let progress = lanes.clone();
    streams.hold_while(move || !progress.is_idle());
    let cut = match timeout_at(deadline, ask_all(streams, lanes, begun, grace)).await {
        Ok(()) => 0,
        Err(_) => {
            let cut = streams.count();
            warn!(connections = cut, "the grace is over; ending what is still open");
            streams.all().iter().for_each(|stream| stream.end(Close::Drain));
            let _ = timeout(CUT_TIMEOUT, streams.none()).await;
            cut
        }
    };
    let seconds = begun.elapsed().as_secs_f64();
    info!(connections = count, cut, "{count} connections closed in {seconds:.1} s");
}

async fn ask_all(streams: &Arc<Streams>, lanes: &Progress, begun: Instant, grace: Duration) {
    let _ = timeout_at(begun + grace.mul_f64(CATCHING_UP), lanes.idle()).await;
    let open = streams.all();
    let mut asked = Asked { streams: VecDeque::new(), patience: grace.mul_f64(PATIENCE) };
    // Timers tick in milliseconds, pauses may be shorter: so they are summed up.
    let mut next = Instant::now();
    let asking = (begun + grace.mul_f64(ASKING - PATIENCE)).saturating_duration_since(next);
    let pause = asking.checked_div(open.len() as u32).unwrap_or_default().min(END_EVERY);
    for stream in open {
        sleep_until(next).await;
        asked.again();
        stream.finish();
        asked.streams.push_back((next, stream));
        next += pause;
    }
    let all_are_gone = streams.none();
    tokio::pin!(all_are_gone);
    while timeout(ASK_EVERY, all_are_gone.as_mut()).await.is_err() {
        asked.again();
    }
}

/// Streams that were asked to finish, and when.
struct Asked {
    streams: VecDeque<(Instant, Arc<Control>)>,
    patience: Duration,
}

impl Asked {
    /// Asks those again that are held; they have to hurry if they were asked long ago.
    fn again(&mut self) {
        let now = Instant::now();
        self.streams.retain(|(since, stream)| {
            let (is_held, hurries) = (stream.is_held(), now > *since + self.patience);
            if is_held && hurries {
                stream.finish_at_once();
            } else if is_held {
                stream.finish();
            }
            is_held && !hurries
        });
    }
}

#[cfg(test)]
mod tests;
