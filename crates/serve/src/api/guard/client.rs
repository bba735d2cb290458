//! Who asks, for the rate limit.

use std::net::{IpAddr, Ipv6Addr};

use axum::extract::Request;

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
    fn a_network_of_ipv6_is_one_client() {
        let of = |peer| address(&request(peer, &[]), false);
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2:ffff::"));
        assert_ne!(of("2001:db8:1:2::"), of("2001:db8:1:3::"));
        assert_eq!(of("::ffff:1.2.3.4"), of("1.2.3.4"));
    }
}
