//! Messages go past the engine, between its own frames: nobody may be able to tell.

mod bytes;
mod flood;
mod ledger;
mod raw;
mod slow;
