//! A worker thread: runs its share of the viewers with one `mio` poll and one read buffer.

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use mio::{Events, Interest, Poll, Token};

use super::{
    entrance::Step,
    fleet::{Outcome, Progress},
    line::Line,
    plan::Plan,
    tally::Tally,
    viewer::{Pace, Viewer},
};

/// Longest wait for events; then the thread checks new connections, slow viewers and the stop flag.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often slow viewers read.
const SLOW_EVERY: Duration = Duration::from_millis(100);
/// Time limit, after the end, for slow and stalled viewers to read what the kernels still hold.
const HINDSIGHT: Duration = Duration::from_secs(2);
/// Maximum number of a thread's viewers that connect at the same time: fewer than the backlog of
/// any listener.
const CONNECTING: usize = 64;
/// Size of the read buffer in bytes: thousands of small frames per read, and larger than any
/// payload.
const BUFFER: usize = 512 << 10;

/// What the viewers of a thread share.
pub struct Desk {
    /// The benchmark's plan.
    pub plan: Arc<Plan>,
    /// The read buffer.
    pub buffer: Vec<u8>,
    progress: Arc<Progress>,
    outcome: Outcome,
}

impl Desk {
    /// The time since the start of the benchmark, in µs.
    pub fn now(&self) -> u64 {
        self.progress.clock.elapsed().as_micros() as u64
    }

    /// The tally for viewers of this pace.
    pub fn tally(&mut self, pace: Pace) -> &mut Tally {
        let Outcome { brisk, hindered, .. } = &mut self.outcome;
        if pace == Pace::Brisk { brisk } else { hindered }
    }

    /// Records a latency in µs, if the viewer is brisk.
    pub fn measure(&mut self, pace: Pace, latency: u64) {
        if pace == Pace::Brisk {
            self.outcome.latency.saturating_record(latency);
        }
    }
}

/// The viewers of one thread.
///
/// [`run`](Self::run) connects them, a limited number at a time, serves their events until the
/// benchmark stops, and returns what they counted. An error stops all threads.
pub struct WorkerThread {
    desk: Desk,
    progress: Arc<Progress>,
    poll: Poll,
    /// The numbers of this thread's viewers, in the order in which they connect. The viewer with
    /// number `numbers[n]` has token `n`, and is at index `n` of `viewers`.
    numbers: Vec<usize>,
    viewers: Vec<Viewer>,
    joined: usize,
    begun: Instant,
}

impl WorkerThread {
    /// The viewers of thread number `thread`: every `plan.threads`th viewer.
    ///
    /// # Errors
    /// If the poll or the histogram cannot be created.
    pub fn new(plan: Arc<Plan>, progress: Arc<Progress>, thread: usize) -> anyhow::Result<Self> {
        let numbers = (thread..plan.viewers).step_by(plan.threads).collect();
        let (buffer, outcome) = (vec![0; BUFFER], Outcome::new()?);
        let desk = Desk { plan, buffer, progress: progress.clone(), outcome };
        let (viewers, joined, begun) = (Vec::new(), 0, Instant::now());
        Ok(Self { desk, progress, poll: Poll::new()?, numbers, viewers, joined, begun })
    }

    /// Connects the viewers and counts their messages until [`Progress::stop`] is set.
    pub fn run(mut self) -> Outcome {
        if let Err(error) = self.watch() {
            self.progress.fail(error);
        }
        self.desk.outcome
    }

    fn watch(&mut self) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut slow_at = Instant::now();
        while !self.progress.stop.load(Relaxed) {
            self.connect()?;
            match self.poll.poll(&mut events, Some(LOOK_EVERY)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(error.into());
                }
                _ => {}
            }
            let before = self.desk.outcome.brisk;
            for event in &events {
                self.serve(event.token().0)?;
            }
            if slow_at.elapsed() >= SLOW_EVERY {
                self.serve_slow(slow_at.elapsed())?;
                slow_at = Instant::now();
            }
            self.tell(before);
        }
        self.look_at_hindered();
        Ok(())
    }

    /// Adds the deliveries and closes since `before` to the shared progress.
    fn tell(&mut self, before: Tally) {
        let outcome = &mut self.desk.outcome;
        let more = outcome.brisk.delivered - before.delivered;
        if more > 0 {
            self.progress.delivered.fetch_add(more, Relaxed);
            outcome.latest = self.progress.clock.elapsed();
        }
        self.progress.closed.fetch_add(outcome.brisk.closed - before.closed, Relaxed);
    }

    /// Starts new connections, as far as the connect rate and [`CONNECTING`] allow.
    fn connect(&mut self) -> anyhow::Result<()> {
        let plan = self.desk.plan.clone();
        let allowed = plan.connect_rate.map_or(usize::MAX, |rate| {
            (self.begun.elapsed().as_secs_f64() * rate / plan.threads as f64) as usize + 1
        });
        while self.viewers.len() < self.numbers.len().min(allowed)
            && self.viewers.len() - self.joined < CONNECTING
        {
            let token = self.viewers.len();
            let number = self.numbers[token];
            let (pace, room) = (plan.pace(number), (number % plan.rooms) as u32);
            let line = self.open(token)?;
            let mut viewer = Viewer::new(line, &plan, pace, room);
            register(&self.poll, token, &mut viewer)?;
            self.viewers.push(viewer);
        }
        Ok(())
    }

    fn open(&self, token: usize) -> anyhow::Result<Line> {
        let (plan, number) = (&self.desk.plan, self.numbers[token]);
        let line = Line::open(&plan.target, number, plan.pace(number) != Pace::Brisk);
        line.with_context(|| self.could_not(token))
    }

    fn could_not(&self, token: usize) -> String {
        format!("viewer {} of {} cannot join", self.numbers[token] + 1, self.desk.plan.viewers)
    }

    fn serve(&mut self, token: usize) -> anyhow::Result<()> {
        let viewer = &mut self.viewers[token];
        if viewer.is_over() {
            return Ok(());
        }
        match viewer.serve(&mut self.desk) {
            Ok(Step::Wait) => {}
            Ok(Step::Joined) => {
                self.joined += 1;
                self.progress.joined.fetch_add(1, Relaxed);
                // Messages may have arrived in the same segment as the acknowledgement.
                return self.serve(token);
            }
            Ok(Step::Reconnect) => {
                let line = self.open(token)?;
                let viewer = &mut self.viewers[token];
                viewer.reconnected(line, &self.desk.plan);
                register(&self.poll, token, viewer)?;
            }
            Err(_) if viewer.is_watching() => {
                let pace = viewer.pace;
                viewer.end();
                self.desk.tally(pace).closed += 1;
            }
            Err(error) => return Err(error.context(self.could_not(token))),
        }
        Ok(())
    }

    fn serve_slow(&mut self, since: Duration) -> anyhow::Result<()> {
        let leave = (self.desk.plan.slow_rate as f64 * since.as_secs_f64()) as usize;
        for token in 0..self.viewers.len() {
            let viewer = &mut self.viewers[token];
            if viewer.pace == Pace::Slow && viewer.is_watching() {
                viewer.give_leave(leave);
                self.serve(token)?;
            }
        }
        Ok(())
    }

    /// Counts the slow and stalled viewers that the server has disconnected. A viewer sees the end
    /// of its connection only after the bytes that the kernels still hold, so it reads them now.
    fn look_at_hindered(&mut self) {
        let begun = Instant::now();
        let is_hindered = |viewer: &&mut Viewer| viewer.pace != Pace::Brisk && viewer.is_watching();
        let mut hindered: Vec<_> = self.viewers.iter_mut().filter(is_hindered).collect();
        while !hindered.is_empty() && begun.elapsed() < HINDSIGHT {
            let before = hindered.len();
            hindered.retain_mut(|viewer| !viewer.is_cut(&mut self.desk.buffer));
            self.desk.outcome.hindered.closed += (before - hindered.len()) as u64;
            thread::sleep(LOOK_EVERY);
        }
    }
}

fn register(poll: &Poll, token: usize, viewer: &mut Viewer) -> io::Result<()> {
    let both = Interest::READABLE | Interest::WRITABLE;
    poll.registry().register(viewer.socket(), Token(token), both)
}
