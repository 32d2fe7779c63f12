//! The program's help, its errors, and what the README says about both.

use std::process::{Command, Output};

fn roomcast(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roomcast"));
    command.args(args).env_clear().envs(variables.iter().copied());
    command.output().expect("runs")
}

#[test]
fn every_bad_setting_is_named_at_once_and_nothing_starts() {
    let bad = [("HTTP_ADDR", "nowhere"), ("SLOW_AFTER", "1h"), ("REDIS_PASSWORD_FILE", "/nowhere")];
    let output = roomcast(&["--grace", "never"], &bad);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    for name in ["HTTP_ADDR", "SLOW_AFTER", "REDIS_PASSWORD_FILE", "GRACE"] {
        assert!(told.contains(&format!("\n  {name}: ")), "{name} in {told}");
    }
    assert!(output.stdout.is_empty());
}

#[test]
fn a_flag_that_does_not_exist_is_answered_with_one_that_does() {
    let output = roomcast(&["--htp-addr", ":1"], &[]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(told.contains("--http-addr"), "{told}");
}

#[test]
fn a_taken_port_is_one_line_that_names_the_setting() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("bound").to_string();
    for name in ["HTTP_ADDR", "ADMIN_ADDR"] {
        let free =
            [("HTTP_ADDR", "127.0.0.1:0"), ("ADMIN_ADDR", "off"), ("REDISHOST", "embedded:0")];
        let output = roomcast(&[], &[&free[..], &[(name, &addr)]].concat());
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(told.contains(name) && told.contains(&addr), "{told}");
    }
}

/// The README's table has a row for each variable of the help, with the same default.
#[test]
fn the_readme_lists_every_setting() {
    let help = roomcast(&["--help"], &[("COLUMNS", "200")]);
    let help = String::from_utf8(help.stdout).expect("UTF-8");
    let readme = include_str!("../../README.md");
    let rows: Vec<&str> = readme.lines().filter(|line| line.starts_with("| `")).collect();
    let mut listed = 0;
    for described in help.split("[env: ").skip(1) {
        let name = described.split(['=', ']']).next().expect("a name");
        let row = rows.iter().find(|row| row.starts_with(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("the README's table lacks {name}"));
        let own = described.split("\n\n").next().expect("its own part");
        if let Some((_, default)) = own.split_once("[default: ") {
            let default = default.split(']').next().expect("closed");
            assert!(row.contains(&format!("`{default}`")), "{name} is {default} by default: {row}");
        }
        listed += 1;
    }
    assert!(listed > 10, "the help names few variables: {help}");
    let settings = rows.iter().filter(|row| {
        let name = row.trim_start_matches("| `").split('`').next().unwrap_or_default();
        !name.is_empty() && name.chars().all(|char| char.is_ascii_uppercase() || char == '_')
    });
    assert_eq!(settings.count(), listed, "the README's table has rows for settings that are gone");
}
