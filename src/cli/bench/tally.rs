//! What a viewer has of its room: every number once and in order, or what else.

use std::ops::Range;

/// The numbers that have come to one viewer.
#[derive(Debug, Default)]
pub struct Sequence {
    /// The lowest number that has neither come nor been passed over.
    next: u32,
    /// What was passed over, ascending. It costs memory only where something is wrong.
    missing: Vec<Range<u32>>,
}

/// What a number that comes is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrival {
    /// New, and after all that came before.
    InOrder,
    /// New, but after one that was published later.
    Late,
    /// It has come already.
    Double,
}

impl Sequence {
    /// A number comes.
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

/// What came to many viewers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Messages that came for the first time.
    pub delivered: u64,
    /// Of these, how many came after one that was published later.
    pub reordered: u64,
    /// Messages that came again.
    pub doubled: u64,
    /// Messages of other rooms, and damaged ones.
    pub wrong: u64,
    /// Viewers whose connection the server ended.
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

    /// Adds others' counts.
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
    fn each_once_and_in_order() {
        assert_eq!(arrivals(0..4), [InOrder; 4]);
    }

    #[test]
    fn what_is_passed_over_does_not_count_as_delivered() {
        let mut tally = Tally::default();
        arrivals([0, 1, 5, 6]).into_iter().for_each(|arrival| tally.count(arrival));
        assert_eq!(tally, Tally { delivered: 4, ..Tally::default() });
    }

    #[test]
    fn a_double_is_told_from_a_late_one() {
        assert_eq!(arrivals([0, 0, 2, 1, 1, 2]), [InOrder, Double, InOrder, Late, Double, Double]);
        assert_eq!(
            arrivals([9, 4, 4, 3, 5, 0, 8, 9]),
            [InOrder, Late, Double, Late, Late, Late, Late, Double]
        );
    }

    #[test]
    fn any_order_of_any_numbers_is_counted_right() {
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
