//! Roomcast writes messages to the socket itself, between the frames that engineioxide writes.
//! Clients must not notice a difference.

mod bytes;
mod flood;
mod ledger;
mod raw;
mod slow;
