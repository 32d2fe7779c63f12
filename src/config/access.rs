//! Who may come in: whose word counts about where a request is from.

use std::net::IpAddr;

use ipnet::IpNet;

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
