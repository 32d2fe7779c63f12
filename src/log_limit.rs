//! Rate limits for log lines that a peer can cause as often as it likes: a number of lines a minute
//! for each kind, and a count of the lines left out.
//!
//! The last line that was left out is written when the minute is over. So a line after many others
//! is late, but not lost. Limits are statics: a process has one log, even with several servers.

use std::{mem, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep_until},
};

/// The window over which lines are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// Writes a line; the argument is the number of events that it stands for.
type Line = Box<dyn FnOnce(u64) + Send>;

/// The limit for lines of one kind.
///
/// A window begins with the first line and lasts a minute. Lines beyond the limit are counted, and
/// the last of them is kept; the next line, or a task spawned for the window's end, writes it.
pub struct LogLimit {
    /// Maximum number of lines in a window.
    lines: u32,
    window: Mutex<Window>,
}

struct Window {
    begun: Option<Instant>,
    written: u32,
    /// Events since the last line that was written.
    events: u64,
    /// The last line that was left out.
    last: Option<Line>,
}

impl LogLimit {
    /// A limit of this many lines a minute.
    pub const fn new(lines: u32) -> Self {
        let window = Window { begun: None, written: 0, events: 0, last: None };
        Self { lines, window: Mutex::new(window) }
    }

    /// Writes a line or leaves it out. `write` gets the number of lines left out before it, `None`
    /// if there were none.
    pub fn line(&'static self, write: impl FnOnce(Option<u64>) + Send + 'static) {
        self.count(1, |events| write((events > 1).then(|| events - 1)));
    }

    /// Writes a line about a number of events or leaves it out. `write` gets the number of events
    /// since the last line that was written, these included.
    pub fn count(&'static self, events: u64, write: impl FnOnce(u64) + Send + 'static) {
        self.turn_over();
        let mut window = self.lock();
        window.events += events;
        if window.written < self.lines {
            let events = window.write();
            drop(window);
            return write(events);
        }
        let is_first = window.last.replace(Box::new(write)).is_none();
        let over = window.begun.map(|begun| begun + WINDOW);
        drop(window);
        if let (true, Some(over), Ok(runtime)) = (is_first, over, Handle::try_current()) {
            runtime.spawn(async move {
                sleep_until(over).await;
                self.turn_over();
            });
        }
    }

    /// Begins a new window if the current one is over, and writes the line that was kept in it.
    fn turn_over(&self) {
        let now = Instant::now();
        let mut window = self.lock();
        if window.begun.is_some_and(|begun| now < begun + WINDOW) {
            return;
        }
        window.begun = Some(now);
        window.written = 0;
        if let Some(last) = window.last.take() {
            let events = window.write();
            drop(window);
            last(events);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock()
    }
}

impl Window {
    /// Counts a line as written; returns the number of events that it stands for.
    fn write(&mut self) -> u64 {
        self.written += 1;
        mem::take(&mut self.events)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{task::yield_now, time::advance};

    use super::*;

    type Log = Arc<Mutex<Vec<(u32, Option<u64>)>>>;

    /// Logs one line for each of these numbers.
    fn write(limit: &'static LogLimit, log: &Log, numbers: impl Iterator<Item = u32>) {
        for number in numbers {
            let log = log.clone();
            limit.line(move |left_out| {
                log.lock().push((number, left_out));
            });
        }
    }

    fn written(log: &Log) -> Vec<(u32, Option<u64>)> {
        mem::take(&mut *log.lock())
    }

    async fn pass(time: Duration) {
        // The task that waits for the window's end must be polled before and after the clock moves.
        yield_now().await;
        advance(time).await;
        yield_now().await;
    }

    #[tokio::test(start_paused = true)]
    async fn lines_beyond_the_limit_are_counted_and_the_last_one_is_written_late() {
        static LIMIT: LogLimit = LogLimit::new(3);
        let log = Log::default();
        write(&LIMIT, &log, 0..100);
        assert_eq!(written(&log), [(0, None), (1, None), (2, None)]);
        pass(WINDOW - Duration::from_millis(1)).await;
        write(&LIMIT, &log, 100..101);
        assert_eq!(written(&log), []);
        pass(Duration::from_millis(1)).await;
        assert_eq!(written(&log), [(100, Some(97))]);
        write(&LIMIT, &log, 101..104);
        assert_eq!(written(&log), [(101, None), (102, None)], "the late line counts too");
    }

    #[tokio::test(start_paused = true)]
    async fn all_lines_left_out_are_counted_even_if_no_line_follows() {
        static LIMIT: LogLimit = LogLimit::new(1);
        let log = Log::default();
        for _ in 0..3 {
            write(&LIMIT, &log, 0..1000);
            pass(WINDOW).await;
        }
        pass(WINDOW * 10).await;
        let told: u64 = written(&log).iter().map(|(_, left_out)| 1 + left_out.unwrap_or(0)).sum();
        assert_eq!(told, 3000);
        write(&LIMIT, &log, 5..6);
        assert_eq!(written(&log), [(5, None)]);
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_counted_between_lines() {
        static LIMIT: LogLimit = LogLimit::new(1);
        let counts = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..3 {
            let counts = counts.clone();
            LIMIT.count(5, move |events| {
                counts.lock().push(events);
            });
        }
        pass(WINDOW).await;
        assert_eq!(*counts.lock(), [5, 10]);
    }
}
