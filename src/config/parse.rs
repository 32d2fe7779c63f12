//! Parsers for the texts of settings, one function per kind of value, and the list of problems.

use std::{sync::Arc, time::Duration};

use super::{Problem, Secret, files};

/// Collects the problems of all settings. Passwords in URLs are removed from their texts; parsers
/// do not repeat values that may be secret.
pub struct Check(pub Vec<Problem>);

impl Check {
    /// Notes a problem of a setting.
    pub fn problem(&mut self, name: &str, problem: String) {
        let problem = without_passwords(&problem);
        self.0.push(Problem { setting: name.to_owned(), problem });
    }

    /// The value of a setting; `None` if it is invalid, after noting the problem.
    pub fn take<T>(&mut self, name: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|problem| self.problem(name, problem)).ok()
    }

    /// Parses the text of a setting, or its default if the text is empty: container templates often
    /// set variables to empty texts.
    pub fn value<T>(
        &mut self,
        name: &str,
        text: &str,
        default: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = text.trim();
        self.take(name, parse(if text.is_empty() { default } else { text }))
    }

    /// The value of a setting, or the content of the file that its `_FILE` twin names.
    pub fn value_or_file(
        &mut self,
        name: &str,
        value: Option<String>,
        file: Option<String>,
    ) -> Option<Secret> {
        let value = value.filter(|value| !value.is_empty());
        match (value, given(file)) {
            (Some(_), Some(_)) => {
                self.problem(name, format!("both {name} and {name}_FILE are set; keep one"));
                None
            }
            (Some(value), None) => Some(value.into()),
            (None, Some(file)) => {
                let content = files::read(file.as_ref());
                // Editors, and pipes into `kubectl create secret`, add a line end that is not part
                // of the value.
                self.take(&format!("{name}_FILE"), content)
                    .map(|content| content.trim_end_matches(['\r', '\n']).to_owned().into())
            }
            (None, None) => None,
        }
    }
}

/// The problem of a URL with a user name or a password: this server's clients do not send them.
pub const CREDENTIALS: &str = "it holds a user name or password, which is not sent; remove it, \
                               or use the settings for them";

/// Whether a URL holds a user name or a password.
pub fn has_credentials(url: &url::Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

/// Replaces the passwords of all URLs in the text by `…`.
fn without_passwords(text: &str) -> String {
    let mut parts = text.split("://");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // A URL ends at a space or at its closing quote.
        let end = part.find([' ', '`']).unwrap_or(part.len());
        let password = part[..end].rfind('@').and_then(|at| Some((part[..at].find(':')?, at)));
        match password {
            Some((colon, at)) => shown.extend(["://", &part[..colon], ":…", &part[at..]]),
            None => shown.extend(["://", part]),
        }
    }
    shown
}

/// The trimmed value; `None` if it is unset or empty.
pub fn given(value: Option<String>) -> Option<String> {
    value.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Parses a comma-separated list of patterns, at least one, and removes duplicates.
pub fn patterns(text: &str) -> Result<Vec<String>, String> {
    let mut patterns: Vec<String> = Vec::new();
    for pattern in text.split(',').map(str::trim).filter(|pattern| !pattern.is_empty()) {
        if !patterns.iter().any(|known| known == pattern) {
            patterns.push(pattern.to_owned());
        }
    }
    if patterns.is_empty() {
        return Err("names no pattern; write e.g. * or device:*,alarm:*".to_owned());
    }
    Ok(patterns)
}

/// Parses true, yes, on, 1 or false, no, off, 0, in any case.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false; write one of them")),
    }
}

/// Parses a whole number of at least 1.
pub fn count(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|&count| count > 0)
        .ok_or_else(|| format!("`{text}` is not a whole number of 1 or more"))
}

/// Parses a size, such as `32MiB`, of at least one byte. Returns bytes.
pub fn size(text: &str) -> Result<usize, String> {
    let size = text.parse::<bytesize::ByteSize>().ok();
    let size = size.and_then(|size| usize::try_from(size.as_u64()).ok()).filter(|&size| size > 0);
    size.ok_or_else(|| format!("`{text}` is not a size; write e.g. 32MiB or 500kB"))
}

/// Parses a time within a range, both ends included, such as `10s`; a number without a unit counts
/// as seconds.
pub fn duration(text: &str, (min, max): (Duration, Duration)) -> Result<Duration, String> {
    let seconds = text.parse::<u64>().ok().map(Duration::from_secs);
    let value = seconds
        .or_else(|| humantime::parse_duration(text).ok())
        .ok_or_else(|| format!("`{text}` is not a time; write e.g. 10s or 500ms"))?;
    if value < min || value > max {
        let (min, max) = (humantime::format_duration(min), humantime::format_duration(max));
        return Err(format!("`{text}` is out of range; write {min} to {max}"));
    }
    Ok(value)
}

/// Splits `host:port`, `[v6]:port`, `host` or `:port` into the host, without brackets, and the
/// port.
pub fn split_host_port(text: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) =
            rest.split_once(']').ok_or_else(|| format!("`{text}` lacks the closing ]"))?;
        match rest.strip_prefix(':') {
            None if !rest.is_empty() => return Err(format!("`{text}` lacks the : after the ]")),
            port => (host, port),
        }
    } else {
        match text.split_once(':') {
            Some((_, rest)) if rest.contains(':') => {
                return Err(format!("`{text}` is ambiguous; write an IPv6 address in [brackets]"));
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let port = match port {
        None => None,
        Some(port) => Some(port.parse().map_err(|_| format!("`{text}` has no valid port"))?),
    };
    if host.contains(['/', ' ', '@', '?', '#']) {
        return Err(format!("`{text}` is not an address"));
    }
    Ok((host.to_owned(), port))
}

/// A prefix of paths, such as `/rt` or `/a/rt/`; `/` is none.
pub fn path_prefix(text: &str) -> Result<Option<Arc<str>>, String> {
    let path = text.trim_end_matches('/');
    if path.is_empty() {
        return Ok(None);
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    let is_name = |name: &str| !["", ".", ".."].contains(&name) && name.chars().all(is_plain);
    match path.strip_prefix('/') {
        Some(names) if names.split('/').all(is_name) => Ok(Some(path.into())),
        _ => Err(format!(
            "`{text}` is not a path; write names of letters, digits, `-`, `.`, `_` and `~`, each \
             with a slash before it, such as /rt"
        )),
    }
}
