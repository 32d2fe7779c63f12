//! Parses the values of the benchmark's flags: counts, rates, times, sizes.

use std::{fmt, time::Duration};

use super::stamp::MIN_SIZE;

/// Maximum size of a message in bytes: it has to fit into a thread's buffer and a server's limits.
const MAX_SIZE: usize = 256 << 10;

/// A number per second, or as many as possible.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate(f64);

impl Rate {
    /// The number per second; `None` = as many as possible.
    pub fn per_second(self) -> Option<f64> {
        (self.0 > 0.0).then_some(self.0)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.per_second() {
            Some(rate) => write!(f, "{rate} a second"),
            None => f.write_str("as many as possible"),
        }
    }
}

/// Bytes per second, given in bits per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bandwidth(u64);

impl Bandwidth {
    /// Bytes per second.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

/// Parses a whole number, 1 or more.
pub fn count(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|&count| count > 0);
    count.ok_or_else(|| "write a whole number, 1 or more".to_owned())
}

/// Parses a rate: `200`, `0.5` or `max`; `0` means the same as `max`.
pub fn rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate(0.0));
    }
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate >= 0.0);
    rate.map(Rate).ok_or_else(|| "write a number per second, or max".to_owned())
}

/// Parses a time: `10s`, `500ms`; a number without unit is seconds.
pub fn time(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()));
    let time = seconds.or_else(|| humantime::parse_duration(text).ok());
    time.ok_or_else(|| "write a time with its unit, e.g. 10s".to_owned())
}

/// Parses a message's size in bytes, large enough for a [`Stamp`](super::stamp::Stamp).
pub fn size(text: &str) -> Result<usize, String> {
    let size = text.parse().ok().filter(|size| (MIN_SIZE..=MAX_SIZE).contains(size));
    size.ok_or_else(|| format!("write a number of bytes from {MIN_SIZE} to {MAX_SIZE}"))
}

/// Parses a bandwidth, such as `56kbit` or `1Mbit`; at least 8 bit per second.
pub fn bandwidth(text: &str) -> Result<Bandwidth, String> {
    let lower = text.to_ascii_lowercase();
    let units = [("kbit", 1e3), ("mbit", 1e6), ("bit", 1.0)];
    let bits = units.iter().find_map(|(unit, factor)| {
        Some(lower.strip_suffix(unit)?.trim().parse::<f64>().ok()? * factor)
    });
    let bytes = bits.filter(|bits| bits.is_finite() && *bits >= 8.0).map(|bits| bits / 8.0);
    let wrong = || "write bits per second with their unit, e.g. 56kbit or 1Mbit".to_owned();
    bytes.map(|bytes| Bandwidth(bytes as u64)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_parsed() {
        assert_eq!(bandwidth("56kbit").map(Bandwidth::bytes), Ok(7000));
        assert_eq!(bandwidth("1Mbit").map(Bandwidth::bytes), Ok(125_000));
        assert_eq!(bandwidth("8bit").map(Bandwidth::bytes), Ok(1));
        assert_eq!(rate("max"), rate("0"));
        assert_eq!(rate("0.5").map(Rate::per_second), Ok(Some(0.5)));
        assert_eq!(time("60"), time("1m"));
        assert_eq!(size("64"), Ok(64));
    }

    #[test]
    fn invalid_values_are_refused() {
        for text in ["", "0", "-1", "x"] {
            assert!(count(text).is_err(), "{text}");
            assert!(size(text).is_err(), "{text}");
            assert!(bandwidth(text).is_err(), "{text}");
        }
        for text in ["", "-1", "NaN", "inf", "fast"] {
            assert!(rate(text).is_err(), "{text}");
        }
        assert!(time("soon").is_err());
        assert!(size("8").is_err());
    }
}
