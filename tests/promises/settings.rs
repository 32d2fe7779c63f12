//! The help of the program, its errors about settings, and the table of settings in the README.

use std::process::{Command, Output};

use clap::Args;
use roomcast::config::Settings;

fn roomcast(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roomcast"));
    command.args(args).env_clear().envs(variables.iter().copied());
    command.output().expect("runs")
}

#[test]
fn all_bad_settings_are_reported_together_and_nothing_starts() {
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
fn an_unknown_flag_is_answered_with_a_similar_one() {
    let output = roomcast(&["--htp-addr", ":1"], &[]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(told.contains("--http-addr"), "{told}");
}

#[test]
fn a_port_in_use_is_reported_in_one_line_with_its_setting() {
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

/// The README's table has a row for each variable in the help, with the same default.
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
    assert_eq!(settings.count(), listed, "the README's table has rows for unknown settings");
}

/// The names of all variables, and their flags.
fn settings() -> Vec<(String, String)> {
    let command = Settings::augment_args(clap::Command::new("roomcast"));
    let name = |arg: &clap::Arg| {
        let variable = arg.get_env()?.to_str()?.to_owned();
        Some((variable, format!("--{}", arg.get_long()?)))
    };
    command.get_arguments().filter_map(name).collect()
}

/// Any value may contain a URL with a password, by mistake.
#[test]
fn neither_help_nor_errors_show_credentials() {
    let value = "https://user:sesame@host.example/x y";
    let names = settings();
    let all: Vec<_> = names.iter().map(|(name, _)| (name.as_str(), value)).collect();
    for args in [&["--help"][..], &["-h"], &["help"], &["publish", "--help"], &["bench", "-h"]] {
        let output = roomcast(args, &[&all[..], &[("BENCH_TOKEN", value)]].concat());
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(told.contains("[env: HTTPREQ_ENDPOINT]") || !told.contains("[env: HTTPREQ"));
        assert!(!told.contains("sesame"), "{args:?}: {told}");
    }
    for (name, flag) in &names {
        // The health check validates all settings, and stops if one is wrong.
        let output = roomcast(&["healthcheck", flag, value], &[("ADMIN_ADDR", "127.0.0.1:1")]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!told.contains("sesame"), "{name}: {told}");
    }
}

/// Settings with which the program fails at once, with exit code 1, unless a setting is refused.
const SHORT: [(&str, &str); 3] =
    [("HTTP_ADDR", "127.0.0.1:0"), ("ADMIN_ADDR", "off"), ("REDISHOST", "127.0.0.1:1")];

#[test]
fn misspelt_settings_are_warned_about_and_fatal_if_they_restrict_access() {
    let publish = |variables: &[(&str, &str)]| {
        let output = roomcast(&["publish", "a", "b"], &[&SHORT[..], variables].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (name, meant) in [("REDIS_URL", "REDISHOST"), ("REDIS_HOST", "REDISHOST")] {
        let (code, told) = publish(&[(name, "redis://:sesame@cache:6379")]);
        assert_eq!(code, Some(1), "{told}");
        let warning = format!("WARN {name} is no setting; did you mean {meant}?");
        assert!(told.contains(&warning) && !told.contains("sesame"), "{told}");
    }
    for (name, meant) in [("JWT_SECERT", "JWT_SECRET"), ("ALLOWED_ORIGIN", "ALLOWED_ORIGINS")] {
        let (code, told) = publish(&[(name, "sesame"), ("GRACE", "never")]);
        assert_eq!(code, Some(2), "{told}");
        let refusal = format!("\n  {name}: is no setting; did you mean {meant}?");
        assert!(told.contains(&refusal) && told.contains("\n  GRACE: "), "{told}");
        assert!(!told.contains("sesame"), "{told}");
    }
}

#[test]
fn variables_of_other_programs_are_ignored() {
    let foreign = [
        // Machines, shells and languages.
        ("PATH", "/usr/bin"),
        ("HOME", "/root"),
        ("HOST", "box"),
        ("HOSTNAME", "box"),
        ("LANG", "C"),
        ("LINES", "40"),
        ("TRACE", "1"),
        ("HISTSIZE", "1000"),
        ("PORT", "80"),
        ("STATE_DIRECTORY", "/var/lib/x"),
        ("SSL_CERT_FILE", ""),
        ("SSL_CERT_DIR", "/etc/ssl/certs"),
        ("HTTP_PROXY", "http://proxy:3128"),
        ("HTTPS_PROXY", "http://proxy:3128"),
        ("STATIC_DIR", "/srv"),
        ("NODE_ENV", "production"),
        ("RUST_LOG", "info"),
        // Clouds, registries and pipelines.
        ("GITHUB_TOKEN", "x"),
        ("CI_JOB_TOKEN", "x"),
        ("NPM_TOKEN", "x"),
        ("VAULT_TOKEN", "x"),
        ("VAULT_ADDR", "https://vault:8200"),
        ("AWS_SESSION_TOKEN", "x"),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AZURE_CLIENT_SECRET", "x"),
        ("CLOUDFLARE_API_TOKEN", "x"),
        ("CF_ZONE_ID", "x"),
        // lego, which gave some settings their names, and its aliases of those settings.
        ("CF_API_KEY", "x"),
        ("CF_API_EMAIL", "x"),
        ("EXEC_PROPAGATION_TIMEOUT", "60"),
        ("LEGO_EMAIL", "a@b.example"),
        ("ACME_DNS_STORAGE_PATH", "/x"),
        // Other programs with Redis and JWTs.
        ("REDIS_DB", "0"),
        ("REDIS_PORT", "6379"),
        ("REDIS_TLS", "true"),
        ("JWT_PRIVATE_KEY", "x"),
        ("CORS_ORIGINS", "*"),
        ("DATABASE_URL", "postgres://x"),
        ("CERT_FILE", "/x"),
        // Service links of Kubernetes.
        ("ROOMCAST_PORT", "tcp://10.0.0.1:80"),
        ("ROOMCAST_SERVICE_HOST", "10.0.0.1"),
        ("ROOMCAST_SERVICE_PORT_HTTP", "80"),
        ("ROOMCAST_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("REDIS_SERVICE_HOST", "10.0.0.2"),
        ("REDIS_SERVICE_PORT", "6379"),
        ("REDIS_PORT_6379_TCP", "tcp://10.0.0.2:6379"),
        ("REDIS_PORT_6379_TCP_ADDR", "10.0.0.2"),
        ("REDIS_PORT_6379_TCP_PROTO", "tcp"),
        ("REDIS_NAME", "/roomcast/redis"),
    ];
    assert!(foreign.len() >= 40);
    let output = roomcast(&["publish", "a", "b"], &[&SHORT[..], &foreign].concat());
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), told.lines().count()), (Some(1), 1), "{told}");
    assert!(told.contains("REDISHOST") && !told.contains("did you mean"), "{told}");
}
