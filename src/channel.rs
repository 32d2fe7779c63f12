//! Which channels may be published on.

use crate::rooms::Rooms;

/// How the channels begin that the server uses itself: to ask Redis for signs of life, for example.
pub const RESERVED: &str = "roomcast:";

/// Whether viewers can get what is published on a channel; if not, why.
pub fn check(channel: &str) -> Result<(), String> {
    Rooms::check_name(channel)?;
    if channel.starts_with(RESERVED) {
        return Err(format!("channels that begin with {RESERVED} are the server's own"));
    }
    Ok(())
}
