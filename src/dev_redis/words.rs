//! What a client wrote, read leniently, and what is wrong with it, in the words of Redis.

use std::fmt::Write;

use bytes::Bytes;

use super::hub::MAX_NAME;

/// Bytes of a client's mistake that are shown back to it, as in Redis.
pub(super) const ECHOED: usize = 128;

/// No such command.
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

/// No such subcommand of a command, which is named in capitals.
pub(super) fn unknown_subcommand(command: &str, subcommand: &[u8]) -> String {
    format!("ERR unknown subcommand '{}'. Try {command} HELP.", lossy(subcommand, ECHOED))
}

/// Too few or too many arguments, for a command or `command|subcommand`.
pub(super) fn wrong_arity(command: &str) -> String {
    format!("ERR wrong number of arguments for '{command}' command")
}

/// The start of the bytes as text.
pub(super) fn lossy(bytes: &[u8], limit: usize) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(limit)]).into_owned()
}

/// A command, subcommand or option, whose case does not matter.
pub(super) fn lower(bytes: &[u8]) -> String {
    lossy(bytes, ECHOED).to_ascii_lowercase()
}

/// Refuses a name that is too long.
pub(super) fn check_name(name: &[u8]) -> Result<(), String> {
    if name.len() > MAX_NAME {
        return Err(format!("ERR name too long: the development broker takes {MAX_NAME} bytes"));
    }
    Ok(())
}

/// A subcommand that takes no such arguments, where Redis does not say which of both it is.
pub(super) fn bad_subcommand(command: &str, subcommand: &[u8]) -> String {
    let shown = lossy(subcommand, ECHOED);
    format!(
        "ERR unknown subcommand or wrong number of arguments for '{shown}'. Try {command} HELP."
    )
}
