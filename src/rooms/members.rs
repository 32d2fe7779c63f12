//! The members of one room, and snapshots of them for the fan-out.
//!
//! Members are kept in chunks. A snapshot shares the chunks; a join or a leave meanwhile copies one
//! chunk and the list of chunks, never all members.

use std::sync::Arc;

use super::Subscriber;

/// Members of one chunk, and of one turn of the fan-out.
pub const CHUNK: usize = 256;

/// A membership: one connect instance in one room. Its place goes to another member after it has
/// left, so it cannot be copied.
#[derive(Debug, PartialEq)]
pub struct Member(u32);

/// Storage for members. `None`: the place is free, or its member waits for the end of its replay.
type Chunk = Vec<Option<Arc<dyn Subscriber>>>;
type Chunks = Arc<Vec<Arc<Chunk>>>;

/// The members of one room.
#[derive(Default)]
pub struct Members {
    count: u32,
    storage: Storage,
}

/// Most rooms have one member, which needs no memory besides the room's.
enum Storage {
    One(Option<Arc<dyn Subscriber>>),
    Many(Box<Many>),
}

struct Many {
    chunks: Chunks,
    free: Vec<u32>,
}

impl Default for Storage {
    fn default() -> Self {
        Self::One(None)
    }
}

impl Members {
    /// Whether there is no member, not even one that waits.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a member that receives nothing until [`set`](Self::set).
    pub fn add(&mut self) -> Member {
        self.count += 1;
        if self.count == 1
            && let Storage::One(_) = self.storage
        {
            return Member(0);
        }
        let many = self.many();
        if let Some(place) = many.free.pop() {
            return Member(place);
        }
        let chunks = Arc::make_mut(&mut many.chunks);
        if chunks.last().is_none_or(|last| last.len() == CHUNK) {
            chunks.push(Arc::default());
        }
        let before = chunks.len() - 1;
        let chunk = chunks.last_mut().map(Arc::make_mut);
        let place = chunk.map_or(0, |chunk| {
            chunk.push(None);
            before * CHUNK + chunk.len() - 1
        });
        // A room has fewer members than there are connections.
        Member(u32::try_from(place).unwrap_or(u32::MAX))
    }

    /// Replaces the subscriber of a member; with `None`, the member receives nothing meanwhile.
    pub fn set(&mut self, member: &Member, subscriber: Option<Arc<dyn Subscriber>>) {
        if let Some(place) = self.place(member) {
            *place = subscriber;
        }
    }

    /// Removes a member. Returns its subscriber, so that it is dropped outside of locks.
    pub fn remove(&mut self, member: Member) -> Option<Arc<dyn Subscriber>> {
        let subscriber = self.place(&member)?.take();
        self.count -= 1;
        if self.count == 0 {
            self.storage = Storage::default();
        } else if let Storage::Many(many) = &mut self.storage {
            many.free.push(member.0);
        }
        subscriber
    }

    /// The members at this moment.
    pub fn snapshot(&self) -> MemberSnapshot {
        match &self.storage {
            Storage::One(subscriber) => MemberSnapshot::One(subscriber.clone()),
            Storage::Many(many) => {
                MemberSnapshot::Many { chunks: many.chunks.clone(), count: self.count as usize }
            }
        }
    }

    fn many(&mut self) -> &mut Many {
        if let Storage::One(only) = &mut self.storage {
            let chunks = Arc::new(vec![Arc::new(vec![only.take()])]);
            self.storage = Storage::Many(Box::new(Many { chunks, free: Vec::new() }));
        }
        match &mut self.storage {
            Storage::Many(many) => many,
            Storage::One(_) => unreachable!("it has just been replaced"),
        }
    }

    fn place(&mut self, Member(place): &Member) -> Option<&mut Option<Arc<dyn Subscriber>>> {
        let place = *place as usize;
        match &mut self.storage {
            Storage::One(only) => (place == 0).then_some(only),
            Storage::Many(many) => {
                let chunk = Arc::make_mut(&mut many.chunks).get_mut(place / CHUNK)?;
                Arc::make_mut(chunk).get_mut(place % CHUNK)
            }
        }
    }
}

/// The members of a room at one moment.
#[derive(Clone)]
pub enum MemberSnapshot {
    /// At most one.
    One(Option<Arc<dyn Subscriber>>),
    /// Several, in chunks.
    Many {
        /// Their places.
        chunks: Chunks,
        /// How many there are.
        count: usize,
    },
}

impl Default for MemberSnapshot {
    fn default() -> Self {
        Self::One(None)
    }
}

impl MemberSnapshot {
    /// The number of members, including those that wait for the end of their replay.
    pub fn len(&self) -> usize {
        match self {
            Self::One(only) => usize::from(only.is_some()),
            Self::Many { count, .. } => *count,
        }
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The members of one chunk; none behind the last chunk.
    pub fn chunk(&self, number: usize) -> Option<impl Iterator<Item = &Arc<dyn Subscriber>>> {
        let chunk: &[Option<Arc<dyn Subscriber>>] = match self {
            Self::One(only) if number == 0 => std::slice::from_ref(only),
            Self::One(_) => return None,
            Self::Many { chunks, .. } => chunks.get(number)?,
        };
        Some(chunk.iter().flatten())
    }

    /// All members.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Subscriber>> {
        (0..).map_while(|number| self.chunk(number)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{message::Gap, rooms::delivery::Batch};

    struct Numbered(usize);

    impl Subscriber for Numbered {
        fn deliver(&self, _: &Batch) -> usize {
            self.0
        }

        fn gap(&self, _: &str, _: &Gap) {}

        fn hello(&self) {}
    }

    fn numbers(snapshot: &MemberSnapshot) -> Vec<usize> {
        let nothing = Batch::from(Vec::new());
        let mut numbers: Vec<_> = snapshot.iter().map(|member| member.deliver(&nothing)).collect();
        numbers.sort_unstable();
        numbers
    }

    proptest! {
        /// A list of numbers does the same.
        #[test]
        fn members_are_those_that_joined_and_have_not_left(
            steps in prop::collection::vec((0..4u8, any::<prop::sample::Index>()), 0..1200),
        ) {
            let mut members = Members::default();
            let mut list: Vec<(Member, Option<usize>)> = Vec::new();
            let mut snapshots: HashMap<usize, (MemberSnapshot, Vec<usize>)> = HashMap::new();
            for (number, (step, which)) in steps.into_iter().enumerate() {
                match step {
                    0 | 1 => {
                        let member = members.add();
                        prop_assert!(list.iter().all(|(other, _)| *other != member));
                        list.push((member, None));
                        if step == 0 {
                            let (member, shown) = list.last_mut().expect("one");
                            members.set(member, Some(Arc::new(Numbered(number))));
                            *shown = Some(number);
                        }
                    }
                    2 if !list.is_empty() => {
                        let index = which.index(list.len());
                        let (member, shown) = list.swap_remove(index);
                        prop_assert_eq!(members.remove(member).is_some(), shown.is_some());
                    }
                    _ => {}
                }
                let mut expected: Vec<_> = list.iter().filter_map(|(_, number)| *number).collect();
                expected.sort_unstable();
                if number % 50 == 0 {
                    prop_assert_eq!(numbers(&members.snapshot()), expected.clone());
                    snapshots.insert(number, (members.snapshot(), expected));
                }
                prop_assert_eq!(members.is_empty(), list.is_empty());
            }
            for (snapshot, expected) in snapshots.into_values() {
                prop_assert_eq!(numbers(&snapshot), expected, "a snapshot does not change");
            }
        }
    }
}
