//! Who may come in: by a token, and by the word of a proxy about where a request is from.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Secret;

/// Tokens, comma-separated or one a line: a new one can be handed out before the old one goes.
pub(super) fn tokens(text: &Secret) -> Vec<Secret> {
    let tokens = text.expose().split([',', '\n']).map(str::trim).filter(|token| !token.is_empty());
    tokens.map(|token| token.to_owned().into()).collect()
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
