//! Who asks: for the rate limit, and where only this machine may.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::extract::Request;
use axum::http::HeaderMap;

/// The address at the other end of the connection, put into a request's extensions by the listener.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// The client's address. Behind a proxy that is trusted it is the last of `X-Forwarded-For`, the only entry that the
/// proxy itself wrote. An IPv6 customer has a network of 64 bits, so that is what counts as one client.
pub(super) fn address(request: &Request, trust_proxy: bool) -> IpAddr {
    let peer = request.extensions().get::<Peer>().map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |peer| peer.0);
    let forwarded = || {
        let last = request.headers().get_all("x-forwarded-for").iter().next_back()?;
        last.to_str().ok()?.rsplit(',').next()?.trim().parse::<IpAddr>().ok()
    };
    match if trust_proxy { forwarded().unwrap_or(peer) } else { peer }.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    }
}

/// What proxies write of whom they speak for.
const FORWARDED: [&str; 3] = ["x-forwarded-for", "x-real-ip", "forwarded"];

/// Whom a proxy on this machine speaks for, if it says that they are on another. Its own connection is of this machine,
/// whoever is behind it.
pub(super) fn from_elsewhere(headers: &HeaderMap) -> Option<String> {
    let values = FORWARDED.iter().flat_map(|name| headers.get_all(*name));
    let mut names = values.flat_map(|value| value.to_str().unwrap_or("unknown").split([',', ';'])).filter_map(named);
    names.find(|name| !is_this_machine(name)).map(|name| name.chars().take(80).collect())
}

/// The client in an entry: `1.2.3.4`, or `for="[2001:db8::1]:80"` among other things that `Forwarded` says.
fn named(entry: &str) -> Option<&str> {
    let entry = entry.trim();
    match entry.split_once('=') {
        Some((key, name)) => key.trim().eq_ignore_ascii_case("for").then(|| name.trim().trim_matches('"')),
        None => (!entry.is_empty()).then_some(entry),
    }
}

fn is_this_machine(name: &str) -> bool {
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
    let address = address.or_else(|| Some(name.parse::<SocketAddr>().ok()?.ip()));
    address.is_some_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn request(peer: &str, forwarded: &[&str]) -> Request {
        let mut builder = Request::builder().extension(Peer(peer.parse().unwrap()));
        for value in forwarded {
            builder = builder.header("x-forwarded-for", *value);
        }
        builder.body(Body::empty()).unwrap()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_and_only_its_own_entry() {
        let forged = request("10.0.0.1", &["1.1.1.1, 2.2.2.2", "3.3.3.3, 4.4.4.4"]);
        assert_eq!(address(&forged, false), "10.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(address(&forged, true), "4.4.4.4".parse::<IpAddr>().unwrap());
        assert_eq!(address(&request("10.0.0.1", &["nonsense"]), true), "10.0.0.1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn a_proxy_speaks_for_another_machine_or_for_this_one() {
        let of = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            from_elsewhere(&headers)
        };
        for here in ["127.0.0.1", "::1", "[::1]:80", "127.0.0.1:9000, ::ffff:127.0.0.1", ""] {
            assert_eq!(of("x-forwarded-for", here), None, "{here}");
        }
        assert_eq!(of("x-forwarded-for", "127.0.0.1, 10.0.0.7").as_deref(), Some("10.0.0.7"));
        assert_eq!(of("x-forwarded-for", "unknown").as_deref(), Some("unknown"));
        assert_eq!(of("x-real-ip", "2001:db8::1").as_deref(), Some("2001:db8::1"));
        assert_eq!(of("forwarded", r#"for=127.0.0.1;proto=https, For="[::1]:80""#), None);
        assert_eq!(of("forwarded", "by=10.0.0.1;for=10.0.0.9").as_deref(), Some("10.0.0.9"));
        assert_eq!(from_elsewhere(&HeaderMap::new()), None);
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let of = |peer| address(&request(peer, &[]), false);
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2:ffff::"));
        assert_ne!(of("2001:db8:1:2::"), of("2001:db8:1:3::"));
        assert_eq!(of("::ffff:1.2.3.4"), of("1.2.3.4"));
    }
}
