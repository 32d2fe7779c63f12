//! Readers of the deployment files: Dockerfile, YAML, and the configuration that environment
//! variables give.

use std::{collections::BTreeMap, path::Path};

use clap::{Arg, Args, Command, FromArgMatches};
use roomcast::config::{Config, Settings};
use serde_json::Value;

/// Names and values of variables.
pub type Environment = BTreeMap<String, String>;

pub fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The items of a list; empty if the value is no list.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The text of a value; panics if it is no text.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// A stage of the Dockerfile, with the instructions that it inherits from its base stage.
pub struct Stage {
    pub base: String,
    pub name: String,
    instructions: Vec<(String, String)>,
}

impl Stage {
    /// The arguments of all instructions with this name, the last one first.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let this = move |(found, _): &&(String, String)| found == name;
        self.instructions.iter().rev().filter(this).map(|(_, rest)| rest.as_str())
    }

    pub fn last(&self, name: &str) -> &str {
        self.all(name).next().unwrap_or_else(|| panic!("{} has no {name}", self.name))
    }

    pub fn environment(&self) -> Environment {
        let pairs = self.all("ENV").flat_map(str::split_whitespace);
        let pairs: Vec<_> = pairs.filter_map(|pair| pair.split_once('=')).collect();
        let own = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
        pairs.iter().rev().map(own).collect()
    }

    /// The exposed ports, in the order of `EXPOSE`.
    pub fn ports(&self) -> Vec<u64> {
        let ports = self.last("EXPOSE").split_whitespace();
        ports.map(|port| port.parse().expect("a port")).collect()
    }
}

/// The stages of the Dockerfile, in order.
pub fn dockerfile() -> Vec<Stage> {
    let mut stages: Vec<Stage> = Vec::new();
    let file = read("Dockerfile");
    let lines = file.lines().filter(|line| !line.trim_start().starts_with('#'));
    for line in lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ").lines() {
        let Some((name, rest)) = line.split_once(' ') else { continue };
        if name != "FROM" {
            let stage = stages.last_mut().expect("a FROM");
            stage.instructions.push((name.to_owned(), rest.trim().to_owned()));
            continue;
        }
        let words: Vec<_> = rest.split(' ').filter(|word| !word.starts_with("--")).collect();
        let [base, "AS", name] = words[..] else { panic!("FROM {rest}") };
        let before = stages.iter().find(|stage| stage.name == base);
        let instructions = before.map_or_else(Vec::new, |stage| stage.instructions.clone());
        stages.push(Stage { base: base.to_owned(), name: name.to_owned(), instructions });
    }
    stages
}

pub fn stage(name: &str) -> Stage {
    dockerfile().into_iter().find(|stage| stage.name == name).expect("a stage")
}

/// Variables for others: the container itself, and the library that loads root certificates.
const FOREIGN: [&str; 2] = ["PATH", "SSL_CERT_FILE"];

/// The configuration that environment variables give. Panics if a name is no setting, or a value is
/// invalid.
pub fn config(environment: &Environment) -> Config {
    let ours = environment.iter().filter(|(name, _)| !FOREIGN.contains(&name.as_str()));
    let flags =
        ours.map(|(name, value)| format!("--{}={value}", name.to_lowercase().replace('_', "-")));
    let arguments = [String::new()].into_iter().chain(flags);
    let matches =
        settings().try_get_matches_from(arguments).unwrap_or_else(|error| panic!("{error}"));
    let settings = Settings::from_arg_matches(&matches).expect("settings");
    Config::try_from(settings).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The names of all variables that may hold a secret.
pub fn secrets() -> Vec<String> {
    let name = |arg: &Arg| arg.get_env().map(|name| name.to_string_lossy().into_owned());
    let command = settings();
    command.get_arguments().filter(|arg| arg.is_hide_env_values_set()).filter_map(name).collect()
}

fn settings() -> Command {
    Settings::augment_args(Command::new("roomcast"))
}

/// Whether the tag of an image is a full version, such as `7.4.1` or `7.4.1-alpine`.
pub fn is_pinned(image: &str) -> bool {
    let tag = image.rsplit('/').next().and_then(|name| name.split_once(':')).map(|(_, tag)| tag);
    let version = |tag: &str| tag.split(['-', '@']).next().unwrap_or_default().split('.').count();
    tag.is_some_and(|tag| version(tag) == 3 && tag.starts_with(|char: char| char.is_ascii_digit()))
}
