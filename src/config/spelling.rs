//! Finds environment variables that look like a misspelt setting, so that a setting does not stay
//! unset without a warning.

use std::{collections::BTreeMap, ffi::OsString, fmt};

use strsim::osa_distance;

use super::{Problem, names};

/// Names that other programs use for a setting, paired with the setting. They differ too much from
/// it to be found as misspelt names.
const ALIASES: [(&str, &str); 3] =
    [("REDIS_URL", "REDISHOST"), ("REDIS_URI", "REDISHOST"), ("REDIS_ADDR", "REDISHOST")];
/// Maximum edit distance between a variable's name and a setting's name.
const MAX_EDITS: usize = 2;
/// Each word of a setting's name may have one edit per this many letters: `PORT` does not count as
/// a misspelt `CERT`.
const LETTERS_PER_EDIT: usize = 3;
/// A setting's name of one word with fewer letters resembles ordinary words, so that it may have no
/// edit except for two swapped letters: `TRACE` does not count as a misspelt `GRACE`. Such a short
/// name is not compared with names of more or fewer words either.
const MIN_LETTERS: usize = 8;

/// An environment variable that looks like a misspelt setting.
#[derive(Debug, PartialEq)]
pub struct Misspelt {
    /// The variable's name.
    pub variable: String,
    /// The setting that its name resembles.
    pub setting: String,
    /// Whether the setting restricts access and is unset: the server must not start, since it would
    /// be open.
    pub leaves_open: bool,
}

impl fmt::Display for Misspelt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "is no setting; did you mean {}?", self.setting)
    }
}

impl From<&Misspelt> for Problem {
    fn from(misspelt: &Misspelt) -> Self {
        let problem = format!(
            "{misspelt} Without {}, the server would be open: rename the variable, or remove it",
            misspelt.setting
        );
        Self { setting: misspelt.variable.clone(), problem }
    }
}

/// The variables of this process that look like misspelt settings.
pub fn misspelt() -> Vec<Misspelt> {
    let text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
    };
    among(std::env::vars_os().filter_map(text))
}

/// The variables of an environment that look like misspelt settings. Empty values count as unset.
fn among(environment: impl IntoIterator<Item = (String, String)>) -> Vec<Misspelt> {
    let given: BTreeMap<_, _> =
        environment.into_iter().filter(|(_, value)| !value.trim().is_empty()).collect();
    let settings: Vec<_> = names::variables().into_iter().map(|variable| variable.name).collect();
    let unknown = given.keys().filter(|&name| !settings.contains(name));
    let nearest = |variable: &String| {
        let edits = |setting: &String| Some((edits(variable, setting)?, setting.clone()));
        let (_, setting) = settings.iter().filter_map(edits).min()?;
        let leaves_open = restricts_access(&setting) && !given.contains_key(&setting);
        Some(Misspelt { variable: variable.clone(), setting, leaves_open })
    };
    unknown.filter_map(nearest).collect()
}

fn restricts_access(setting: &str) -> bool {
    let setting = setting.strip_suffix("_FILE").unwrap_or(setting);
    setting.starts_with("JWT_") || setting.ends_with("_TOKEN") || setting.ends_with("_ORIGINS")
}

/// The edit distance between a variable's name and a setting's name; 0 for an alias, and for the
/// same words in another order or with other separators. `None` if the names differ too much.
fn edits(variable: &str, setting: &str) -> Option<usize> {
    if ALIASES.contains(&(variable, setting)) {
        return Some(0);
    }
    let upper = variable.to_ascii_uppercase();
    let (theirs, ours) = (words(&upper), words(setting));
    let (joined, setting_joined) = (theirs.concat(), ours.concat());
    if joined == setting_joined || sorted(&theirs) == sorted(&ours) {
        return Some(0);
    }
    if theirs.len() != ours.len() {
        return (setting_joined.len() >= MIN_LETTERS
            && osa_distance(&joined, &setting_joined) == 1)
            .then_some(1);
    }
    let pairs = || theirs.iter().zip(&ours);
    let close = pairs().all(|(theirs, ours)| {
        let allowed = if setting.len() < MIN_LETTERS && pairs().len() == 1 {
            0
        } else {
            ours.len() / LETTERS_PER_EDIT
        };
        osa_distance(theirs, ours) <= allowed || is_swapped(theirs, ours)
    });
    let edits = pairs().map(|(theirs, ours)| osa_distance(theirs, ours)).sum();
    (close && edits <= MAX_EDITS).then_some(edits)
}

fn words(name: &str) -> Vec<&str> {
    name.split(|char: char| !char.is_ascii_alphanumeric()).collect()
}

fn sorted<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let mut words = words.to_vec();
    words.sort_unstable();
    words
}

/// Whether the words differ only in two neighbouring letters that have changed places.
fn is_swapped(theirs: &str, ours: &str) -> bool {
    let letters = |word: &str| {
        let mut letters = word.as_bytes().to_vec();
        letters.sort_unstable();
        letters
    };
    osa_distance(theirs, ours) == 1 && letters(theirs) == letters(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &[&str]) -> Vec<(String, String, bool)> {
        let environment = names.iter().map(|name| ((*name).to_owned(), "x".to_owned()));
        let told = |name: Misspelt| (name.variable, name.setting, name.leaves_open);
        among(environment).into_iter().map(told).collect()
    }

    #[test]
    fn finds_the_setting_that_a_misspelt_variable_resembles() {
        for (name, setting) in [
            ("REDIS_HOST", "REDISHOST"),
            ("REDIS_URL", "REDISHOST"),
            ("REDIS_CHANNEL", "REDIS_CHANNELS"),
            ("REDIS_PASWORD_FILE", "REDIS_PASSWORD_FILE"),
            ("RT_HOST", "RTHOST"),
            ("rthost", "RTHOST"),
            ("RTHSOT", "RTHOST"),
            ("HISTROY", "HISTORY"),
            ("HISTORYTTL", "HISTORY_TTL"),
            ("HTTP-ADDR", "HTTP_ADDR"),
            ("HTTPADR", "HTTP_ADDR"),
            ("ADDR_HTTP", "HTTP_ADDR"),
            ("LOGLEVEL", "LOG_LEVEL"),
            ("MAX_CONNECTIONS_PER_ADRESS", "MAX_CONNECTIONS_PER_ADDRESS"),
            ("TSL_CERT", "TLS_CERT"),
            ("CF_DNS_API_TOKN", "CF_DNS_API_TOKEN"),
        ] {
            let (_, meant, _) =
                found(&[name]).pop().unwrap_or_else(|| panic!("{name} resembles no setting"));
            assert_eq!(meant, setting, "{name}");
        }
    }

    #[test]
    fn a_misspelt_access_setting_leaves_the_server_open_unless_the_setting_is_set() {
        for (name, setting) in [
            ("JWT_SECERT", "JWT_SECRET"),
            ("JWTSECRET", "JWT_SECRET"),
            ("SECRET_JWT", "JWT_SECRET"),
            ("JWT_SECERT_FILE", "JWT_SECRET_FILE"),
            ("JWT_PUBLICKEY", "JWT_PUBLIC_KEY"),
            ("JWT_AUDIENCES", "JWT_AUDIENCE"),
            ("PUBLISH_TOKENS", "PUBLISH_TOKEN"),
            ("ALLOWED_ORIGIN", "ALLOWED_ORIGINS"),
        ] {
            let told = |open| vec![(name.to_owned(), setting.to_owned(), open)];
            assert_eq!(found(&[name]), told(true));
            assert_eq!(found(&[name, setting]), told(false));
        }
        assert!(!found(&["REDIS_HOST"])[0].2);
    }

    #[test]
    fn correct_names_and_empty_values_are_not_reported() {
        let names: Vec<_> =
            names::variables().into_iter().map(|variable| (variable.name, "x".into())).collect();
        assert!(names.len() > 60);
        assert_eq!(among(names), []);
        assert_eq!(among([("JWT_SECERT".to_owned(), " ".to_owned())]), []);
    }
}
