//! `roomcast licences`: the licences of Roomcast and of everything that is built into it.

use std::{
    io::{self, ErrorKind, Write},
    process::ExitCode,
};

const OURS: &str = include_str!("../../LICENSE");
/// Held to Cargo.lock by tests/licences.rs.
const OF_OTHERS: &str = include_str!("../../THIRD-PARTY-LICENCES.txt");

/// Prints all texts; a reader that has seen enough, such as `head`, is no error.
pub fn run() -> anyhow::Result<ExitCode> {
    let mut output = io::stdout().lock();
    let printed = write!(output, "{OURS}\n\n{OF_OTHERS}").and_then(|()| output.flush());
    match printed {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}
