//! `roomcast licences`: prints the licences of Roomcast and of the libraries that are built into
//! it.

use std::{
    io::{self, ErrorKind, Write},
    process::ExitCode,
};

const OURS: &str = include_str!("../../LICENSE");
/// tests/licences.rs checks that this file matches Cargo.lock.
const OF_OTHERS: &str = include_str!("../../THIRD-PARTY-LICENCES.txt");

/// Prints all texts. A closed pipe is not an error: programs such as `head` stop reading early.
pub fn run() -> anyhow::Result<ExitCode> {
    let mut output = io::stdout().lock();
    let printed = write!(output, "{OURS}\n\n{OF_OTHERS}").and_then(|()| output.flush());
    match printed {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}
