//! The client address and the requested host behind trusted proxies: X-Forwarded-For and
//! X-Forwarded-Host.

use std::net::{IpAddr, SocketAddr};

use http::{
    HeaderMap,
    header::{HOST, HeaderName},
};
use ipnet::IpNet;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Returns the client's address: the peer's, unless the peer is a trusted proxy.
///
/// Each proxy appends the address of its own peer to X-Forwarded-For. So the entries are read from
/// the last one backwards, as long as the address that added an entry is trusted. An entry that is
/// no address ends the walk; the proxy that added it then counts as the client.
pub fn client(trusted: &[IpNet], peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let mut heard = headers.get_all(FORWARDED_FOR).iter().rev().flat_map(|value| {
        let text = value.to_str().unwrap_or_default();
        text.rsplit(',').map(|entry| address(entry.trim()))
    });
    let mut client = peer.to_canonical();
    while is_trusted(trusted, client) {
        match heard.next().flatten() {
            Some(before) => client = before,
            None => break,
        }
    }
    client
}

/// Returns the host that the client requested, with the port if it is not the scheme's default: the
/// forwarded one, or else that of the Host header.
pub fn host<'a>(trusted: &[IpNet], peer: IpAddr, headers: &'a HeaderMap) -> Option<&'a str> {
    let asked = || headers.get(HOST)?.to_str().ok();
    forwarded_host(trusted, peer, headers).or_else(asked)
}

/// Returns the host that the peer forwards, if the peer is a trusted proxy. Of several entries in
/// X-Forwarded-Host, the last one is the one that this proxy itself has added.
pub fn forwarded_host<'a>(
    trusted: &[IpNet],
    peer: IpAddr,
    headers: &'a HeaderMap,
) -> Option<&'a str> {
    let last = headers.get_all(FORWARDED_HOST).iter().next_back()?.to_str().ok()?;
    let host = last.rsplit(',').next().map(str::trim).filter(|host| !host.is_empty())?;
    is_trusted(trusted, peer).then_some(host)
}

/// Whether an address belongs to a trusted proxy; IPv4-mapped IPv6 addresses count as IPv4.
pub fn is_trusted(trusted: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|network| network.contains(&address))
}

/// Parses an address as proxies write it: some append the port, some put IPv6 into brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn networks(text: &str) -> Vec<IpNet> {
        text.split_whitespace().map(|text| text.parse().expect("a valid network")).collect()
    }

    fn headers(name: &HeaderName, values: &[&str]) -> HeaderMap {
        let value = |value: &&str| {
            (name.clone(), HeaderValue::from_bytes(value.as_bytes()).expect("a valid value"))
        };
        values.iter().map(value).collect()
    }

    #[test]
    fn the_client_is_the_last_address_that_is_no_trusted_proxy() {
        let table: &[(&str, &str, &[&str], &str)] = &[
            ("", "1.1.1.1", &["9.9.9.9"], "1.1.1.1"),
            ("10.0.0.0/8", "1.1.1.1", &["9.9.9.9"], "1.1.1.1"),
            ("10.0.0.0/8", "10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", &["9.9.9.9"], "9.9.9.9"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", &["::ffff:9.9.9.9"], "9.9.9.9"),
            ("10.0.0.0/8", "10.0.0.1", &["8.8.8.8, 9.9.9.9"], "9.9.9.9"),
            ("10.0.0.0/8", "10.0.0.1", &["8.8.8.8", "9.9.9.9"], "9.9.9.9"),
            ("10.0.0.0/8", "10.0.0.1", &["8.8.8.8,9.9.9.9 , 10.0.0.2"], "9.9.9.9"),
            ("10.0.0.0/8", "10.0.0.1", &["8.8.8.8,9.9.9.9", "10.0.0.3, 10.0.0.2"], "9.9.9.9"),
            ("10.0.0.0/8", "10.0.0.1", &["10.0.0.3,10.0.0.2"], "10.0.0.3"),
            ("10.0.0.0/8", "10.0.0.1", &["9.9.9.9, unknown"], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", &["9.9.9.9, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.0/8", "10.0.0.1", &["9.9.9.9,"], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", &["9.9.9.9", "\u{e9}"], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", &["9.9.9.9:51234"], "9.9.9.9"),
            ("::1/128", "::1", &["[2001:db8::1]:51234"], "2001:db8::1"),
            ("::1/128", "::1", &["[2001:db8::1]"], "2001:db8::1"),
            ("::1/128", "::1", &["2001:db8::1"], "2001:db8::1"),
            ("::1/128", "::1", &["1.2.3"], "::1"),
            ("0.0.0.0/0", "10.0.0.1", &["9.9.9.9, 8.8.8.8"], "9.9.9.9"),
        ];
        for (trusted, peer, forwarded, expected) in table {
            let peer = peer.parse().expect("a valid IP");
            let found = client(&networks(trusted), peer, &headers(&FORWARDED_FOR, forwarded));
            assert_eq!(found.to_string(), *expected, "{trusted} {peer} {forwarded:?}");
        }
    }

    #[test]
    fn the_host_is_the_forwarded_one_behind_a_trusted_proxy_else_the_requested_one() {
        let table: &[(&str, &[&str], Option<&str>)] = &[
            ("", &["public.example"], Some("inner:8080")),
            ("10.0.0.0/8", &[], Some("inner:8080")),
            ("10.0.0.0/8", &["public.example"], Some("public.example")),
            ("10.0.0.0/8", &["forged.example, public.example:8443"], Some("public.example:8443")),
            ("10.0.0.0/8", &["forged.example", "public.example"], Some("public.example")),
            ("10.0.0.0/8", &[""], Some("inner:8080")),
            ("10.0.0.0/8", &["public.example", "\u{e9}"], Some("inner:8080")),
        ];
        for (trusted, forwarded, expected) in table {
            let mut headers = headers(&FORWARDED_HOST, forwarded);
            headers.insert(HOST, HeaderValue::from_static("inner:8080"));
            let found = host(&networks(trusted), [10, 0, 0, 1].into(), &headers);
            assert_eq!(found, *expected, "{trusted} {forwarded:?}");
        }
        assert_eq!(host(&[], [10, 0, 0, 1].into(), &HeaderMap::new()), None);
    }

    proptest! {
        /// A client's own entries are always left of the one that the proxy appends.
        #[test]
        fn a_client_cannot_forge_its_address(
            forged in proptest::collection::vec("[ -~]{0,40}", 0..4),
            address: IpAddr,
        ) {
            let trusted = networks("10.0.0.0/8");
            prop_assume!(!is_trusted(&trusted, address));
            let peer = [10, 0, 0, 1].into();
            let forged: Vec<&str> = forged.iter().map(String::as_str).collect();
            let added = address.to_string();
            let mut apart = headers(&FORWARDED_FOR, &forged);
            apart.append(FORWARDED_FOR, added.parse().expect("a valid value"));
            prop_assert_eq!(client(&trusted, peer, &apart), address.to_canonical());
            let joined = headers(&FORWARDED_FOR, &[&[&forged[..], &[&added]].concat().join(", ")]);
            prop_assert_eq!(client(&trusted, peer, &joined), address.to_canonical());
        }

        /// Headers of untrusted peers are ignored, and no value makes the parser panic.
        #[test]
        fn any_header_value_is_handled(bytes in proptest::collection::vec(32u8..127, 0..80), peer: IpAddr) {
            let value = HeaderValue::from_bytes(&bytes).expect("visible bytes");
            let headers = HeaderMap::from_iter([(FORWARDED_FOR, value.clone()), (FORWARDED_HOST, value)]);
            prop_assert_eq!(client(&[], peer, &headers), peer.to_canonical());
            prop_assert_eq!(host(&[], peer, &headers), None);
            let everybody = networks("0.0.0.0/0 ::/0");
            client(&everybody, peer, &headers);
            host(&everybody, peer, &headers);
        }
    }
}
