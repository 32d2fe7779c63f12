//! The drain: closes all connections one after the other within the grace, each after its pending
//! bytes. Message delivery continues meanwhile.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::{info, warn};

use crate::{
    conn::connection::{Connection, Connections},
    ingest::Progress,
    metrics::Close,
};

/// Interval between the closes of two connections, unless the grace is too short for it. Clients
/// reconnect at once; the interval keeps them from reconnecting all at the same moment.
const END_EVERY: Duration = Duration::from_millis(10);
/// Fraction of the grace to wait, at first, for the delivery of messages that arrived before the
/// stop.
const CATCHING_UP: f64 = 0.4;
/// Fraction of the grace in which connections are asked to finish; the rest is for their last
/// bytes.
const ASKING: f64 = 0.8;
/// Fraction of the grace that a connection, once asked, waits for the lanes to be idle.
const PATIENCE: f64 = 0.05;
/// How long to wait, after the grace, for the remaining connections' tasks to notice that their
/// connections were ended.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often streams that wait for the lanes to be idle are asked again.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// Closes all streams, each after its pending bytes have been sent, spread over the time until
/// `deadline`. No stream may be added meanwhile.
///
/// A stream closes at a moment when the lanes are idle: everything received has been delivered, so
/// the close comes after every message that arrived before it. If the lanes are never idle, that
/// delays the closes by a fraction of the grace only. Streams still open at `deadline` are ended
/// without their pending bytes.
///
/// # Cancel safety
/// Not cancel safe: streams that wait for idle lanes would not be asked again.
pub async fn close_all(streams: &Arc<Connections>, lanes: &Progress, deadline: Instant) {
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
            warn!(connections = cut, "the grace is over; ending {cut} open connections");
            streams.all().iter().for_each(|stream| stream.end(Close::Drain));
            let _ = timeout(CUT_TIMEOUT, streams.none()).await;
            cut
        }
    };
    let seconds = begun.elapsed().as_secs_f64();
    info!(connections = count, cut, "{count} connections closed in {seconds:.1} s");
}

async fn ask_all(streams: &Arc<Connections>, lanes: &Progress, begun: Instant, grace: Duration) {
    let _ = timeout_at(begun + grace.mul_f64(CATCHING_UP), lanes.idle()).await;
    let open = streams.all();
    let mut asked = Asked { streams: VecDeque::new(), patience: grace.mul_f64(PATIENCE) };
    // Timers tick in milliseconds and pauses may be shorter, so each deadline is computed from the
    // previous one.
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

/// Streams that were asked to finish and may still be held, each with the time it was asked.
struct Asked {
    streams: VecDeque<(Instant, Arc<Connection>)>,
    patience: Duration,
}

impl Asked {
    /// Asks held streams again. One that has been held for longer than `patience` finishes without
    /// waiting for idle lanes. Streams that are not held any more are removed.
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
