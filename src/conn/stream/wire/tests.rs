//! Whatever the kernel takes and whenever: every frame whole, once, and in its place.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// The engine is given a packet.
    Packet { size: usize },
    /// One with an attachment.
    Attachment { size: usize },
    /// It is given a fence.
    Fence,
    /// Frames of ours are pushed.
    Push { sizes: Vec<usize> },
    /// The kernel takes so many bytes more.
    Room { bytes: usize },
    /// The engine writes so many more of its frames.
    Write { frames: usize },
    /// It writes what it has, and flushes it.
    Engine,
    /// Who reads is woken.
    Reader,
}

fn step() -> impl Strategy<Value = Step> {
    let size = || prop_oneof![4 => 0..120usize, 1 => 120..140usize, 1 => 65_530..65_540usize];
    prop_oneof![
        3 => size().prop_map(|size| Step::Packet { size }),
        1 => size().prop_map(|size| Step::Attachment { size }),
        2 => Just(Step::Fence),
        4 => prop::collection::vec(size(), 1..4).prop_map(|sizes| Step::Push { sizes }),
        3 => prop_oneof![0..20usize, 0..300usize, Just(200_000)].prop_map(|bytes| Step::Room { bytes }),
        2 => (1..4usize).prop_map(|frames| Step::Write { frames }),
        3 => Just(Step::Engine),
        2 => Just(Step::Reader),
    ]
}

/// Takes as many bytes as it has room for.
#[derive(Clone, Default)]
struct Kernel(Arc<Mutex<(usize, Vec<u8>)>>);

impl AsyncRead for Kernel {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Kernel {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let (room, taken) = &mut *self.0.lock().expect("sane");
        let bytes = buf.len().min(*room);
        *room -= bytes;
        taken.extend_from_slice(&buf[..bytes]);
        if bytes == 0 { Poll::Pending } else { Poll::Ready(Ok(bytes)) }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A text frame that has a number after some beginning.
fn frame(beginning: &str, number: usize, size: usize) -> Vec<u8> {
    let payload = format!("{beginning}{number:08}{}", "x".repeat(size));
    let mut frame = vec![0x81];
    match payload.len() {
        length @ 0..=125 => frame.push(length as u8),
        length @ 126..=0xffff => {
            frame.push(126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(payload.bytes());
    frame
}

/// What happened, in the order in which it did.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Packet,
    Fence,
    Push,
}

/// A wire, what the engine has yet to write to it, and all that was asked of it.
struct Bench {
    wire: Wire,
    kernel: Kernel,
    /// Its frames, and of those the ones that it has begun to write.
    engine: VecDeque<Vec<u8>>,
    buffer: Vec<u8>,
    fences: u64,
    events: Vec<Event>,
    frames: Vec<Vec<u8>>,
}

impl Bench {
    fn new() -> Self {
        let (kernel, cx) = (Kernel::default(), &mut Context::from_waker(std::task::Waker::noop()));
        let mut wire = Wire::new(kernel.clone());
        wire.upgrading();
        assert!(wire.poll_flush(cx).is_ready() && wire.is_framed());
        let (engine, buffer, events, frames) = Default::default();
        Self { wire, kernel, engine, buffer, fences: 0, events, frames }
    }

    fn add(&mut self, event: Event, size: usize) -> Vec<u8> {
        let frame = frame("", self.events.len(), size);
        self.events.push(event);
        self.frames.push(frame.clone());
        frame
    }

    fn step(&mut self, step: Step) {
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        match step {
            Step::Packet { size } => {
                let packet = self.add(Event::Packet, size);
                self.engine.push_back(packet);
            }
            Step::Attachment { size } => {
                let header = frame("451-", self.events.len(), 3);
                let attachment = self.add(Event::Packet, size);
                self.frames.last_mut().expect("one").splice(..0, header.iter().copied());
                self.engine.extend([header, attachment]);
            }
            Step::Fence => {
                self.add(Event::Fence, 0);
                self.fences += 1;
                self.engine.push_back(FENCE_FRAME.to_vec());
            }
            Step::Push { sizes } => {
                let frames = sizes.iter().flat_map(|&size| self.add(Event::Push, size));
                let mut rest: Bytes = frames.collect::<Vec<u8>>().into();
                let _ = self.wire.try_write(cx, &mut rest, self.fences);
                if !rest.is_empty() {
                    self.wire.add(rest, self.fences);
                }
            }
            Step::Room { bytes } => self.kernel.0.lock().expect("sane").0 += bytes,
            Step::Write { frames } => {
                let more = self.engine.drain(..frames.min(self.engine.len()));
                self.buffer.extend(more.flatten());
                while !self.buffer.is_empty() {
                    match self.wire.poll_write(cx, &self.buffer) {
                        Poll::Ready(written) => drop(self.buffer.drain(..written.expect("taken"))),
                        Poll::Pending => return,
                    }
                }
            }
            Step::Engine => {
                self.step(Step::Write { frames: usize::MAX });
                if self.buffer.is_empty() {
                    let _ = self.wire.poll_flush(cx);
                }
            }
            Step::Reader => drop(self.wire.poll_waiting(cx)),
        }
    }

    /// The events whose frames the kernel has taken, in that order.
    fn taken(&self) -> Vec<usize> {
        let (_, taken) = &*self.kernel.0.lock().expect("sane");
        let (mut rest, mut order) = (&taken[..], Vec::new());
        while let Some((header, payload)) = lengths(rest) {
            let text = &rest[header..header + payload];
            let digits = text.strip_prefix(ATTACHED).unwrap_or(text).get(..8).expect("a number");
            let number: usize = std::str::from_utf8(digits).expect("text").parse().expect("digits");
            order.push(number);
            rest = rest.strip_prefix(&self.frames[number][..]).expect("all of it, at once");
        }
        assert_eq!(rest, b"");
        order
    }
}

proptest! {
    #[test]
    fn frames_are_whole_and_in_their_places(steps in prop::collection::vec(step(), 1..60)) {
        let mut bench = Bench::new();
        steps.into_iter().for_each(|step| bench.step(step));
        for step in [Step::Room { bytes: usize::MAX / 2 }, Step::Engine, Step::Reader] {
            bench.step(step);
        }
        prop_assert!(bench.wire.is_flushed());
        prop_assert_eq!(bench.wire.waiting(), 0);

        let events = &bench.events;
        let order = bench.taken();
        let mut all = order.clone();
        all.sort_unstable();
        let expected = (0..events.len()).filter(|&event| events[event] != Event::Fence);
        prop_assert_eq!(all, expected.collect::<Vec<_>>(), "each once, and no fence");
        for kind in [Event::Packet, Event::Push] {
            let these = order.iter().filter(|&&event| events[event] == kind);
            prop_assert!(these.is_sorted(), "one after the other");
        }
        for (place, &event) in order.iter().enumerate() {
            let before = match events[event] {
                // All that was pushed before it.
                Event::Packet => (0..event).filter(|&one| events[one] == Event::Push).collect(),
                // What the engine was given before the last fence.
                _ => match events[..event].iter().rposition(|&event| event == Event::Fence) {
                    Some(fence) => (0..fence).filter(|&one| events[one] == Event::Packet).collect(),
                    None => vec![],
                },
            };
            let came = |one: &usize| order[..place].contains(one);
            prop_assert!(before.iter().all(came), "{event} came before one of {before:?}");
        }
    }
}

/// A viewer that is always behind gets the engine's packets too.
#[test]
fn a_packet_waits_for_no_more_than_was_there_before_it() {
    let mut bench = Bench::new();
    let push = || Step::Push { sizes: vec![92] };
    bench.step(push());
    bench.step(Step::Packet { size: 92 });
    let mut pushed = 1;
    // For each message that gets through, another one comes.
    while bench.engine.len() + bench.buffer.len() > 0 && pushed < 100 {
        for step in [push(), Step::Engine, Step::Room { bytes: 102 }, Step::Reader] {
            bench.step(step);
        }
        pushed += 1;
    }
    assert!(pushed < 10, "{pushed}");
}

#[test]
fn before_the_upgrade_nothing_is_put_between() {
    let cx = &mut Context::from_waker(std::task::Waker::noop());
    let kernel = Kernel::default();
    kernel.0.lock().expect("sane").0 = 1000;
    let mut wire = Wire::new(kernel.clone());
    let mut frames = Bytes::from(frame("", 0, 0));
    assert!(wire.try_write(cx, &mut frames, 0).is_ready());
    assert_eq!(frames.len(), 10);
    assert!(matches!(wire.poll_write(cx, FENCE_FRAME), Poll::Ready(Ok(13))));
    assert!(wire.poll_flush(cx).is_ready());
    assert!(!wire.is_framed());
    assert_eq!(kernel.0.lock().expect("sane").1, FENCE_FRAME);
}
