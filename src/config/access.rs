//! Who may come in: by a token, and by the word of a proxy about where a request is from.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{BadSettings, Check, Secret, Settings, Tokens, https::is_host, tokens};

/// Who may watch and publish, as the settings and the files that they name say now.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessKeys {
    /// By JWTs; `None` = everybody may watch.
    pub tokens: Option<Tokens>,
    /// Bearer tokens that may publish on every channel.
    pub publish_tokens: Vec<Secret>,
}

impl AccessKeys {
    /// Reads them again. It blocks, where they are in files.
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

/// Tokens, comma-separated or one a line: a new one can be handed out before the old one goes.
fn split(text: &Secret) -> Vec<Secret> {
    let tokens = text.expose().split([',', '\n']).map(str::trim).filter(|token| !token.is_empty());
    tokens.map(|token| token.to_owned().into()).collect()
}

/// Host names, comma-separated, in small letters: `*.example.com` stands for one label, `*` for all.
pub(super) fn hosts(text: &str) -> Result<Vec<String>, String> {
    let one = |text: &str| {
        let name = text.to_ascii_lowercase();
        // Names in a container's network may have an underscore, which DNS has not.
        let plain = name.strip_prefix("*.").unwrap_or(&name).replace('_', "-");
        (name == "*" || is_host(&plain)).then_some(name).ok_or_else(|| {
            format!("`{text}` is no host name; write names without ports, e.g. rt.example.com or *.example.com, or * for all")
        })
    };
    text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(one).collect()
}

/// Addresses and networks, comma-separated, without doubles.
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
