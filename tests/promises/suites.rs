//! The points of public test suites: Autobahn's for WebSocket, and those of the Engine.IO and Socket.IO
//! protocols. Each is a row of a table: the case in the suite, the section of the specification, what is
//! expected. A failure prints the rows that differ, with what came instead.

mod engineio;
mod frames;
mod socketio;

/// A row of a table.
struct Case<Input> {
    /// The number or the words of the case in its suite.
    name: &'static str,
    /// The section of the specification.
    section: &'static str,
    input: Input,
    expected: String,
}

/// Asserts that each case had the result that is expected.
fn check<Input>(cases: &[Case<Input>], results: &[String]) {
    assert_eq!(cases.len(), results.len());
    let wrong: Vec<_> = cases
        .iter()
        .zip(results)
        .filter(|(case, got)| case.expected != **got)
        .map(|(Case { name, section, expected, .. }, got)| {
            format!("| {name} | {section} | {expected} | {got} |")
        })
        .collect();
    assert!(wrong.is_empty(), "| case | section | expected | got |\n{}", wrong.join("\n"));
}
