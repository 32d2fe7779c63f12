//! Where a request is from and which host it asks for, as far as its proxies can be trusted.

use std::net::{IpAddr, SocketAddr};

use http::{
    HeaderMap,
    header::{HOST, HeaderName},
};
use ipnet::IpNet;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The client's address: the peer's, unless that is a trusted proxy. Each proxy appends whom it
/// heard, so X-Forwarded-For is read from its end, as long as those who speak are trusted. What
/// nobody can have heard ends the walk: then it is the last proxy that counts as the client.
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

/// The host, and the port if it is not the usual one, that the client asked for. Of several
/// X-Forwarded-Host, the last is what the trusted peer itself has heard.
pub fn host<'a>(trusted: &[IpNet], peer: IpAddr, headers: &'a HeaderMap) -> Option<&'a str> {
    let asked = || headers.get(HOST)?.to_str().ok();
    forwarded_host(trusted, peer, headers).or_else(asked)
}

/// That host, if the peer is a trusted proxy that names one.
pub fn forwarded_host<'a>(
    trusted: &[IpNet],
    peer: IpAddr,
    headers: &'a HeaderMap,
) -> Option<&'a str> {
    let last = headers.get_all(FORWARDED_HOST).iter().next_back()?.to_str().ok()?;
    let host = last.rsplit(',').next().map(str::trim).filter(|host| !host.is_empty())?;
    is_trusted(trusted, peer).then_some(host)
}

/// Whether an address is one of a trusted proxy.
pub fn is_trusted(trusted: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|network| network.contains(&address))
}

/// An address as proxies write it; some append the port.
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
        text.split_whitespace().map(|text| text.parse().expect("a network")).collect()
    }

    fn headers(name: &HeaderName, values: &[&str]) -> HeaderMap {
        let value = |value: &&str| {
            (name.clone(), HeaderValue::from_bytes(value.as_bytes()).expect("a value"))
        };
        values.iter().map(value).collect()
    }

    #[test]
    fn the_client_is_whom_the_last_trusted_proxy_heard() {
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
            let peer = peer.parse().expect("an address");
            let found = client(&networks(trusted), peer, &headers(&FORWARDED_FOR, forwarded));
            assert_eq!(found.to_string(), *expected, "{trusted} {peer} {forwarded:?}");
        }
    }

    #[test]
    fn the_host_is_what_a_trusted_proxy_says_else_what_the_request_says() {
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
        /// Whatever a client sends stands left of what the proxy adds.
        #[test]
        fn no_client_hides_behind_a_header(
            forged in proptest::collection::vec("[ -~]{0,40}", 0..4),
            address: IpAddr,
        ) {
            let trusted = networks("10.0.0.0/8");
            prop_assume!(!is_trusted(&trusted, address));
            let peer = [10, 0, 0, 1].into();
            let forged: Vec<&str> = forged.iter().map(String::as_str).collect();
            let added = address.to_string();
            let mut apart = headers(&FORWARDED_FOR, &forged);
            apart.append(FORWARDED_FOR, added.parse().expect("a value"));
            prop_assert_eq!(client(&trusted, peer, &apart), address.to_canonical());
            let joined = headers(&FORWARDED_FOR, &[&[&forged[..], &[&added]].concat().join(", ")]);
            prop_assert_eq!(client(&trusted, peer, &joined), address.to_canonical());
        }

        /// Nobody but a trusted proxy is believed, and no bytes are too strange.
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(32u8..127, 0..80), peer: IpAddr) {
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
