//! Counts lost, doubled and reordered messages by the numbers that a viewer receives.

use std::ops::Range;

/// The numbers that one viewer has received.
#[derive(Debug, Default)]
pub struct Sequence {
    /// The highest received number plus 1.
    next: u32,
    /// Ranges below `next` that have not been received, ascending. Empty unless messages are lost
    /// or reordered.
    missing: Vec<Range<u32>>,
}

/// How a received number relates to those before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrival {
    /// New, and higher than all numbers before.
    InOrder,
    /// New, but received after a higher number.
    Late,
    /// Received before.
    Double,
}

impl Sequence {
    /// Records a received number.
    pub fn take(&mut self, number: u32) -> Arrival {
        if number >= self.next {
            if number > self.next {
                self.missing.push(self.next..number);
            }
            self.next = number + 1;
            return Arrival::InOrder;
        }
        let after = self.missing.partition_point(|range| range.end <= number);
        match self.missing.get(after).cloned().filter(|range| range.contains(&number)) {
            None => Arrival::Double,
            Some(range) => {
                let rest = [range.start..number, number + 1..range.end];
                let rest = rest.into_iter().filter(|range| !range.is_empty());
                self.missing.splice(after..=after, rest);
                Arrival::Late
            }
        }
    }
}

/// Counts of what many viewers received.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Messages received for the first time.
    pub delivered: u64,
    /// Of these, messages received after one that was published later.
    pub reordered: u64,
    /// Messages received again.
    pub doubled: u64,
    /// Messages of other rooms, and damaged ones.
    pub wrong: u64,
    /// Viewers whose connection the server closed.
    pub closed: u64,
}

impl Tally {
    /// Counts an arrival.
    pub fn count(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::InOrder => self.delivered += 1,
            Arrival::Late => {
                self.delivered += 1;
                self.reordered += 1;
            }
            Arrival::Double => self.doubled += 1,
        }
    }

    /// Adds the counts of another tally.
    pub fn add(&mut self, other: Self) {
        self.delivered += other.delivered;
        self.reordered += other.reordered;
        self.doubled += other.doubled;
        self.wrong += other.wrong;
        self.closed += other.closed;
    }
}

#[cfg(test)]
mod tests {
    use super::{Arrival::*, *};

    fn arrivals(numbers: impl IntoIterator<Item = u32>) -> Vec<Arrival> {
        let mut sequence = Sequence::default();
        numbers.into_iter().map(|number| sequence.take(number)).collect()
    }

    #[test]
    fn ascending_numbers_are_in_order() {
        assert_eq!(arrivals(0..4), [InOrder; 4]);
    }

    #[test]
    fn skipped_numbers_do_not_count_as_delivered() {
        let mut tally = Tally::default();
        arrivals([0, 1, 5, 6]).into_iter().for_each(|arrival| tally.count(arrival));
        assert_eq!(tally, Tally { delivered: 4, ..Tally::default() });
    }

    #[test]
    fn doubled_and_late_numbers_are_distinguished() {
        assert_eq!(arrivals([0, 0, 2, 1, 1, 2]), [InOrder, Double, InOrder, Late, Double, Double]);
        assert_eq!(
            arrivals([9, 4, 4, 3, 5, 0, 8, 9]),
            [InOrder, Late, Double, Late, Late, Late, Late, Double]
        );
    }

    #[test]
    fn random_sequences_are_counted_correctly() {
        use rand::{RngExt, SeedableRng, rngs::StdRng};
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..200 {
            let (mut sequence, mut seen) = (Sequence::default(), Vec::new());
            for _ in 0..100 {
                let number = random.random_range(0..60);
                let expected = if seen.contains(&number) {
                    Double
                } else if seen.iter().any(|&earlier| earlier > number) {
                    Late
                } else {
                    InOrder
                };
                assert_eq!(sequence.take(number), expected);
                seen.push(number);
            }
        }
    }
}
