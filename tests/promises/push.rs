//! Sessions from outside, byte by byte: answers, replays and messages come whole and in order, also
//! under load, during upgrades and over connections that are behind.

mod bytes;
mod flood;
mod ledger;
pub mod raw;
mod slow;
