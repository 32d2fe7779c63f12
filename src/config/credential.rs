//! Secrets that are read when they are used, so that those in files can be mended while we run.

use std::path::PathBuf;

use super::{Check, Secret, files, given};

/// The names that lego has for some settings besides ours.
const LEGO: [(&str, &str); 4] = [
    ("CLOUDFLARE_DNS_API_TOKEN", "CF_DNS_API_TOKEN"),
    ("CLOUDFLARE_ZONE_API_TOKEN", "CF_ZONE_API_TOKEN"),
    ("CLOUDFLARE_EMAIL", "CF_API_EMAIL"),
    ("CLOUDFLARE_API_KEY", "CF_API_KEY"),
];

/// A secret, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Credential {
    /// The setting it stands in.
    pub setting: String,
    place: Place,
    /// White space at both ends belongs to it, except for the line end of a file.
    literal: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Place {
    Here(Secret),
    File(PathBuf),
}

impl Credential {
    /// A secret of a setting, taken as it is.
    pub fn literal(setting: &str, secret: String) -> Self {
        Self { setting: setting.to_owned(), place: Place::Here(secret.into()), literal: true }
    }

    /// The secret as it is now, or why it cannot be had. It blocks, where it is in a file.
    pub fn read(&self) -> Result<Secret, String> {
        match &self.place {
            Place::Here(secret) => Ok(secret.clone()),
            Place::File(file) => match files::read(file)? {
                text if text.trim().is_empty() => Err(format!("`{}` is empty", file.display())),
                text if self.literal => Ok(text.trim_end_matches(['\r', '\n']).to_owned().into()),
                text => Ok(text.trim().to_owned().into()),
            },
        }
    }
}

/// Lego's name for one of our variables, if it has another one.
pub(super) fn lego(variable: &str) -> Option<String> {
    LEGO.iter().find_map(|(ours, lego)| {
        let suffix = variable.strip_prefix(ours).filter(|suffix| ["", "_FILE"].contains(suffix))?;
        Some(format!("{lego}{suffix}"))
    })
}

/// A secret of a setting, of its file, or of lego's other name for it.
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

/// A secret of a setting or of its file in which white space counts.
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
