//! Which channels `roomcast publish` and the HTTP endpoint may publish on.

use crate::rooms::Rooms;

/// The prefix of channels that the server itself uses, for example for its probes of the
/// subscription.
pub const RESERVED: &str = "roomcast:";

/// Checks that messages published on a channel can reach a room.
///
/// # Errors
/// Says what is wrong with the channel: it cannot be the name of a room, or it is reserved.
pub fn check(channel: &str) -> Result<(), String> {
    Rooms::check_name(channel)?;
    if channel.starts_with(RESERVED) {
        return Err(format!(
            "channels that begin with {RESERVED} are the server's own: choose another name"
        ));
    }
    Ok(())
}
