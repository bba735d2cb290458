//! Is it this server's own page that asks? Against DNS rebinding the Host must be a name of this server; against other
//! sites Origin and Sec-Fetch-Site must not name one. Programs send neither, and are told apart by the key.

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, header};

use super::super::error::ApiError;

/// The names by which this server may be called.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    allowed: Vec<String>,
}

impl Hosts {
    /// Names beyond `localhost` and addresses: `chat.example.org`.
    ///
    /// # Errors
    /// One is not a host name.
    pub fn new(allowed: &[String]) -> Result<Self, String> {
        let name = |text: &String| match text.parse::<Authority>() {
            Ok(authority) if authority.host() == text && !text.is_empty() => Ok(text.to_ascii_lowercase()),
            _ => Err(format!("--allowed-host {text:?}: use a name without scheme and port, like chat.example.org")),
        };
        Ok(Hosts { allowed: allowed.iter().map(name).collect::<Result<_, _>>()? })
    }

    /// Whether the request comes from this server's page or from no page at all.
    pub(super) fn check(&self, request: &Request) -> Result<(), ApiError> {
        let headers = request.headers();
        let host = self.host(request)?;
        let own_page = self.origin(headers, &host)?;
        let guarded = request.method() != Method::GET && request.method() != Method::HEAD || {
            let path = request.uri().path();
            path.starts_with("/api/") || path.starts_with("/v1/") || path == "/metrics"
        };
        let site = headers.get("sec-fetch-site").map(|value| value.as_bytes());
        if guarded && !own_page && matches!(site, Some(site) if site != b"same-origin" && site != b"none") {
            return Err(ApiError::foreign("another site's page may not use this server"));
        }
        Ok(())
    }

    /// The Host, which must be one of this server's. An address proves that no name was rebound.
    fn host(&self, request: &Request) -> Result<Authority, ApiError> {
        let mut values = request.headers().get_all(header::HOST).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(ApiError::invalid("send one header Host"));
        };
        let authority: Option<Authority> = value.to_str().ok().and_then(|text| text.parse().ok());
        let Some(authority) = authority.filter(|authority| !authority.as_str().contains('@')) else {
            return Err(ApiError::invalid("the header Host is not a name or an address"));
        };
        if self.is_ours(authority.host()) {
            return Ok(authority);
        }
        let name: String = authority.host().chars().take(80).collect();
        Err(ApiError::foreign(format!(
            "{name:?} is not a name of this server; start it with --allowed-host {name} if it is to be"
        )))
    }

    fn is_ours(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || address.parse::<std::net::IpAddr>().is_ok() || self.allowed.contains(&host)
    }

    /// True if there is an Origin and it is this server's page; false if there is none.
    fn origin(&self, headers: &HeaderMap, host: &Authority) -> Result<bool, ApiError> {
        let Some(value) = headers.get(header::ORIGIN) else { return Ok(false) };
        let authority: Option<Authority> = value
            .to_str()
            .ok()
            .and_then(|text| text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")))
            .and_then(|text| text.parse().ok());
        let own = authority.is_some_and(|origin| {
            // A proxy may hand on another port, but not one of the names that the owner has allowed.
            origin.as_str().eq_ignore_ascii_case(host.as_str())
                || self.allowed.contains(&origin.host().to_ascii_lowercase())
        });
        if own { Ok(true) } else { Err(ApiError::foreign("the header Origin names another site")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn ask(method: &str, path: &str, headers: &[(&str, &str)]) -> bool {
        let hosts = Hosts::new(&["chat.example.org".to_owned()]).unwrap();
        let mut builder = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        hosts.check(&builder.body(Body::empty()).unwrap()).is_ok()
    }

    #[test]
    fn a_rebound_name_is_refused() {
        for good in ["localhost:7860", "127.0.0.1:7860", "[::1]:7860", "192.168.1.5", "chat.example.org", "LOCALHOST"] {
            assert!(ask("GET", "/", &[("host", good)]), "{good}");
        }
        let bad =
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "x@localhost", "", "a b", "[::1"];
        for host in bad {
            assert!(!ask("GET", "/", &[("host", host)]), "{host}");
        }
        assert!(!ask("GET", "/", &[]) && !ask("GET", "/", &[("host", "localhost"), ("host", "localhost")]));
    }

    #[test]
    fn other_sites_are_refused() {
        let post = |origin| ask("POST", "/v1/chat/completions", &[("host", "localhost:7860"), ("origin", origin)]);
        assert!(post("http://localhost:7860") && post("https://chat.example.org"));
        for other in ["http://localhost:8080", "null", "http://evil.example", "file://", "https://x.chat.example.org"] {
            assert!(!post(other), "{other}");
        }
        let site = |path, site| ask("GET", path, &[("host", "localhost:7860"), ("sec-fetch-site", site)]);
        assert!(site("/api/config", "same-origin") && site("/api/config", "none"));
        assert!(!site("/api/config", "cross-site") && !site("/v1/models", "same-site"));
        // A link on another site may open the page.
        assert!(site("/", "cross-site"));
        assert!(!ask("POST", "/", &[("host", "localhost"), ("sec-fetch-site", "cross-site")]));
    }

    #[test]
    fn names_are_names() {
        for wrong in ["", "https://x.org", "x.org:80", "x y"] {
            assert!(Hosts::new(&[wrong.to_owned()]).is_err(), "{wrong:?}");
        }
    }
}
