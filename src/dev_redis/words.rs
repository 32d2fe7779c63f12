//! Lenient reading of a client's input, and error texts in Redis' wording.

use std::fmt::Write;

use bytes::Bytes;

use super::hub::MAX_NAME;

/// The most bytes of a client's input that an error text repeats, as in Redis.
pub(super) const ECHOED: usize = 128;

/// The error for an unknown command; shows the start of its arguments.
pub(super) fn unknown_command(name: &[u8], arguments: &[Bytes]) -> String {
    let mut shown = String::new();
    for argument in arguments {
        if shown.len() >= ECHOED {
            break;
        }
        let _ = write!(shown, "'{}' ", lossy(argument, ECHOED - shown.len()));
    }
    format!("ERR unknown command '{}', with args beginning with: {shown}", lossy(name, ECHOED))
}

/// The error for an unknown subcommand; `command` is in capitals.
pub(super) fn unknown_subcommand(command: &str, subcommand: &[u8]) -> String {
    format!("ERR unknown subcommand '{}'. Try {command} HELP.", lossy(subcommand, ECHOED))
}

/// The error for too few or too many arguments; `command` may be `command|subcommand`.
pub(super) fn wrong_arity(command: &str) -> String {
    format!("ERR wrong number of arguments for '{command}' command")
}

/// The first `limit` bytes as text; invalid UTF-8 is replaced.
pub(super) fn lossy(bytes: &[u8], limit: usize) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(limit)]).into_owned()
}

/// A command, subcommand or option in lower case, cut after [`ECHOED`] bytes.
pub(super) fn lower(bytes: &[u8]) -> String {
    lossy(bytes, ECHOED).to_ascii_lowercase()
}

/// Checks the length of a channel's, pattern's or client's name.
///
/// # Errors
/// If it is longer than [`MAX_NAME`].
pub(super) fn check_name(name: &[u8]) -> Result<(), String> {
    if name.len() > MAX_NAME {
        return Err(format!("ERR name too long: the development broker takes {MAX_NAME} bytes"));
    }
    Ok(())
}

/// The error for wrong arguments of a subcommand, for commands where Redis does not distinguish
/// them from an unknown subcommand.
pub(super) fn bad_subcommand(command: &str, subcommand: &[u8]) -> String {
    let shown = lossy(subcommand, ECHOED);
    format!(
        "ERR unknown subcommand or wrong number of arguments for '{shown}'. Try {command} HELP."
    )
}
