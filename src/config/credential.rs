//! Secrets that are read each time they are used, so that a file can be replaced while the server
//! runs.

use std::path::PathBuf;

use super::{Check, Secret, files, given};

/// Settings, and the second names that lego has for them.
const LEGO: [(&str, &str); 4] = [
    ("CLOUDFLARE_DNS_API_TOKEN", "CF_DNS_API_TOKEN"),
    ("CLOUDFLARE_ZONE_API_TOKEN", "CF_ZONE_API_TOKEN"),
    ("CLOUDFLARE_EMAIL", "CF_API_EMAIL"),
    ("CLOUDFLARE_API_KEY", "CF_API_KEY"),
];

/// A secret from a variable or a file. The file is read at each use, not once.
#[derive(Clone, Debug, PartialEq)]
pub struct Credential {
    /// Name of the setting that holds the secret or names its file, for error messages.
    pub setting: String,
    place: Place,
    /// Whether white space at both ends belongs to the secret. The line end of a file never does.
    literal: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Place {
    /// The value of the setting.
    Here(Secret),
    /// A file that the setting names.
    File(PathBuf),
}

impl Credential {
    /// A secret from the value of a setting, taken literally.
    pub fn literal(setting: &str, secret: String) -> Self {
        Self { setting: setting.to_owned(), place: Place::Here(secret.into()), literal: true }
    }

    /// The current secret. Blocks if the secret is in a file, for at most 5 s.
    ///
    /// # Errors
    /// The file cannot be read in time, or is empty.
    pub fn read(&self) -> Result<Secret, String> {
        match &self.place {
            Place::Here(secret) => Ok(secret.clone()),
            Place::File(file) => match files::read(file)? {
                text if text.trim().is_empty() => {
                    Err(format!("`{}` is empty; write the secret into it", file.display()))
                }
                text if self.literal => Ok(text.trim_end_matches(['\r', '\n']).to_owned().into()),
                text => Ok(text.trim().to_owned().into()),
            },
        }
    }
}

/// Lego's second name for a variable, if there is one.
pub(super) fn lego(variable: &str) -> Option<String> {
    LEGO.iter().find_map(|(ours, lego)| {
        let suffix = variable.strip_prefix(ours).filter(|suffix| ["", "_FILE"].contains(suffix))?;
        Some(format!("{lego}{suffix}"))
    })
}

/// A secret from a setting, from the file that its `_FILE` twin names, or from lego's second name
/// for either. White space at both ends is ignored. `None` if it is not set; a problem is noted in
/// `check`.
pub fn credential(
    check: &mut Check,
    name: &str,
    value: Option<String>,
    file: Option<String>,
) -> Option<Credential> {
    let lego = lego(name);
    let variable = |suffix: &str| given(std::env::var(format!("{}{suffix}", lego.as_ref()?)).ok());
    let (name, value, file) = match (given(value), given(file)) {
        (None, None) => (lego.as_deref().unwrap_or(name), variable(""), variable("_FILE")),
        (value, file) => (name, value, file),
    };
    of_either(check, name, value, file, false)
}

/// A secret from a setting or from the file that its `_FILE` twin names, in which white space
/// counts. `None` if it is not set; a problem is noted in `check`.
pub fn literal(
    check: &mut Check,
    name: &str,
    value: Option<String>,
    file: Option<String>,
) -> Option<Credential> {
    of_either(check, name, value.filter(|value| !value.is_empty()), given(file), true)
}

fn of_either(
    check: &mut Check,
    name: &str,
    value: Option<String>,
    file: Option<String>,
    literal: bool,
) -> Option<Credential> {
    let (setting, place) = match (value, file) {
        (None, None) => return None,
        (Some(_), Some(_)) => {
            check.problem(name, format!("both {name} and {name}_FILE are set; keep one"));
            return None;
        }
        (Some(value), None) => (name.to_owned(), Place::Here(value.into())),
        (None, Some(file)) => (format!("{name}_FILE"), Place::File(file.into())),
    };
    let credential = Credential { setting, place, literal };
    check.take(&credential.setting, credential.read());
    Some(credential)
}
