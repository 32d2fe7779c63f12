//! What Roomcast promises: each promise is tested against a real server on a free port.
//!
//! These tests need only Rust: the embedded broker publishes, over TCP like any Redis.
//! Tests wait for events, with a deadline that only a failure reaches.

mod acme;
mod acme_dns;
mod acme_faults;
mod acme_renewal;
mod assets;
mod auth;
mod bench;
mod certified;
mod chromium;
mod conflate;
mod differential;
mod dns_provider;
mod doctor;
mod drain;
mod embedded;
mod events;
mod files;
mod headers;
mod history;
mod hostile;
mod hosts;
mod limits;
mod load;
mod past;
mod pebble;
mod publish;
mod push;
mod replays;
mod rooms;
mod settings;
mod shares;
mod signals;
mod slow;
mod source;
mod state;
mod suites;
mod supervision;
mod support;
mod tls;
