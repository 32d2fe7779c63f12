//! The settings of access: tokens for watching and publishing, allowed host names and trusted
//! proxies.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{BadSettings, Check, Secret, Settings, Tokens, https::is_host, tokens};

/// The keys and tokens that decide about access, as read from the settings and the files that they
/// name.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessKeys {
    /// How JWTs are verified; `None` = clients may watch without a token.
    pub tokens: Option<Tokens>,
    /// Bearer tokens that may publish on every channel.
    pub publish_tokens: Vec<Secret>,
}

impl AccessKeys {
    /// Reads the keys and tokens, also again after a change. Blocks if they are in files.
    ///
    /// # Errors
    /// Names all invalid settings of keys and tokens.
    pub fn read(settings: &Settings) -> Result<Self, BadSettings> {
        let mut check = Check(Vec::new());
        let keys = Self::checked(&mut check, settings);
        if check.0.is_empty() { Ok(keys) } else { Err(BadSettings(check.0)) }
    }

    pub(super) fn checked(check: &mut Check, settings: &Settings) -> Self {
        let tokens = tokens::tokens(check, settings);
        let publish_tokens = check.value_or_file(
            "PUBLISH_TOKEN",
            settings.publish_token.clone(),
            settings.publish_token_file.clone(),
        );
        let publish_tokens = publish_tokens.map(|tokens| split(&tokens)).unwrap_or_default();
        Self { tokens, publish_tokens }
    }
}

/// Splits tokens that are comma-separated or one per line. Several tokens allow rotation: a new one
/// is valid before the old one is removed.
fn split(text: &Secret) -> Vec<Secret> {
    let tokens = text.expose().split([',', '\n']).map(str::trim).filter(|token| !token.is_empty());
    tokens.map(|token| token.to_owned().into()).collect()
}

/// Parses comma-separated host names into lower case. The `*` in `*.example.com` stands for one
/// label, `*` alone for any host name.
pub(super) fn hosts(text: &str) -> Result<Vec<String>, String> {
    let one = |text: &str| {
        let name = text.to_ascii_lowercase();
        // Host names in container networks may contain underscores, which `is_host` rejects.
        let plain = name.strip_prefix("*.").unwrap_or(&name).replace('_', "-");
        (name == "*" || is_host(&plain)).then_some(name).ok_or_else(|| {
            format!("`{text}` is not a host name; write names without ports, e.g. rt.example.com or *.example.com, or * for all")
        })
    };
    text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(one).collect()
}

/// Parses comma-separated IP addresses and networks, and removes duplicates.
pub(super) fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    let mut networks = Vec::new();
    for text in text.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let network = text.parse::<IpAddr>().map(|address| address.to_canonical().into());
        let network = network.or_else(|_| text.parse::<IpNet>()).map_err(|_| {
            format!("`{text}` is neither an address nor a network; write e.g. 10.0.0.0/8 or ::1")
        })?;
        if !networks.contains(&network.trunc()) {
            networks.push(network.trunc());
        }
    }
    Ok(networks)
}
