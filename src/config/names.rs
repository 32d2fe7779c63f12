//! The names of the environment variables that are read, taken from the definition of the flags.

use clap::{Args, Command};

use super::{Settings, credential::lego};

/// An environment variable that is read.
pub struct Variable {
    /// The variable's name.
    pub name: String,
    /// Whether its value may hold a secret.
    pub is_secret: bool,
}

/// All variables that are read, including lego's second names for some of them.
pub fn variables() -> Vec<Variable> {
    let command = Settings::augment_args(Command::new("roomcast"));
    let variable = |arg: &clap::Arg| {
        let name = arg.get_env()?.to_str()?.to_owned();
        Some(Variable { name, is_secret: arg.is_hide_env_values_set() })
    };
    let ours: Vec<_> = command.get_arguments().filter_map(variable).collect();
    let also =
        |ours: &Variable| Some(Variable { name: lego(&ours.name)?, is_secret: ours.is_secret });
    let also: Vec<_> = ours.iter().filter_map(also).collect();
    ours.into_iter().chain(also).collect()
}

/// The names of the variables whose values may hold a secret.
pub fn secrets() -> impl Iterator<Item = String> {
    variables().into_iter().filter(|variable| variable.is_secret).map(|variable| variable.name)
}
