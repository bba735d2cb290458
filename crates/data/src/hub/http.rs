//! [`Client`]: GET over HTTP as the Hub needs it. Redirects are followed here, not by the library, because what the Hub
//! says of a file stands in the headers of the redirect, and because the token must not follow it to another address.

use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use ureq::http::{HeaderMap, Uri, header};

use super::settings::Settings;

const MAX_REDIRECTS: usize = 8;
/// Of an error's body.
const MESSAGE_BYTES: u64 = 2048;
/// Slices of a wait, between which somebody may want to stop.
const SLICE: Duration = Duration::from_millis(20);

/// What a request was answered with.
pub(super) struct Answer {
    /// 200 or 206.
    pub status: u16,
    /// Names the bytes of the body, where the server has a strong name for them.
    pub etag: Option<String>,
    /// `X-Linked-Etag`: the SHA-256 of a file in LFS.
    pub linked_etag: Option<String>,
    /// `X-Linked-Size`: its bytes.
    pub linked_size: Option<u64>,
    /// `X-Repo-Commit`.
    pub commit: Option<String>,
    /// Bytes of the body.
    pub length: Option<u64>,
    /// First byte and bytes of the whole, of a 206.
    pub range: Option<(u64, Option<u64>)>,
    /// The next page.
    pub next: Option<String>,
    /// What comes.
    pub body: ureq::BodyReader<'static>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It may be better later.
    Again {
        /// For people.
        reason: String,
        /// How long the server wants to be left alone.
        wish: Option<Duration>,
    },
    /// It will not.
    Never {
        /// Of HTTP; 0 where it is not the server that refuses.
        status: u16,
        /// For people.
        message: String,
    },
}

impl Trouble {
    pub(super) fn again(reason: impl Into<String>) -> Self {
        Trouble::Again { reason: reason.into(), wish: None }
    }
}

/// Where to go on in a file, and of which version.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest<'a> {
    pub byte: u64,
    pub etag: Option<&'a str>,
}

/// Shared by all threads of a fetch.
pub(super) struct Client {
    agent: ureq::Agent,
    settings: Settings,
    /// Nobody asks the Hub before this.
    quiet_until: Mutex<Option<Instant>>,
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Self {
        // What runs on this machine is not asked through a proxy; otherwise the variables say.
        let local = origin(&settings.endpoint).is_some_and(|(_, host, _)| is_loopback(&host));
        let proxy = if local { None } else { ureq::Proxy::try_from_env() };
        let config = ureq::Agent::config_builder()
            .proxy(proxy)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(settings.timeout))
            .timeout_recv_response(Some(settings.timeout))
            .timeout_per_read(Some(settings.timeout))
            .timeout_per_write(Some(settings.timeout))
            .max_idle_connections_per_host(settings.parallel)
            .user_agent(concat!("casallm/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.new_agent(), settings: settings.clone(), quiet_until: Mutex::new(None) }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Asks for a body, or for the rest of one.
    pub(super) fn get(&self, url: &str, from: Option<Rest<'_>>, stop: &AtomicBool) -> Result<Answer, Trouble> {
        self.wait_for_quiet(stop);
        let mut url = url.to_owned();
        let (mut linked_etag, mut linked_size, mut commit) = (None, None, None);
        for _ in 0..=MAX_REDIRECTS {
            let home = self.is_home(&url);
            let mut request = self.agent.get(&url).header(header::ACCEPT_ENCODING, "identity");
            if let Some(token) = self.settings.token.as_ref().filter(|_| home) {
                request = request.header(header::AUTHORIZATION, token.bearer());
            }
            if let Some(from) = from.filter(|from| from.byte > 0) {
                request = request.header(header::RANGE, format!("bytes={}-", from.byte));
                if let Some(etag) = from.etag {
                    request = request.header(header::IF_RANGE, etag);
                }
            }
            let response = request.call().map_err(|error| Trouble::again(error.to_string()))?;
            let status = response.status().as_u16();
            let headers = response.headers();
            linked_etag = linked_etag.or_else(|| text(headers, "x-linked-etag").map(|etag| bare(&etag).to_owned()));
            linked_size = linked_size.or_else(|| number(headers, "x-linked-size"));
            commit = commit.or_else(|| text(headers, "x-repo-commit"));
            match status {
                200 | 206 => {
                    return Ok(Answer {
                        status,
                        etag: text(headers, "etag").filter(|etag| etag.starts_with('"')),
                        linked_etag,
                        linked_size,
                        commit,
                        length: number(headers, "content-length"),
                        range: text(headers, "content-range").and_then(|range| content_range(&range)),
                        next: headers.get_all("link").iter().find_map(|link| next_link(link.to_str().ok()?)),
                        body: response.into_body().into_reader(),
                    });
                }
                301 | 302 | 303 | 307 | 308 => {
                    let location = text(headers, "location")
                        .ok_or_else(|| Trouble::again(format!("a redirect ({status}) to nowhere")))?;
                    url = self.follow(&url, &location)?;
                }
                _ => return Err(self.refused(status, home, response)),
            }
        }
        Err(Trouble::again(format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// An error by its status. Only the Hub's own "no" is final: the address that it redirects to may have expired.
    fn refused(&self, status: u16, home: bool, response: ureq::http::Response<ureq::Body>) -> Trouble {
        let headers = response.headers().clone();
        let wish = wish(&headers);
        let mut body = String::new();
        // What cannot be read is not said.
        let _ = response.into_body().into_reader().take(MESSAGE_BYTES).read_to_string(&mut body);
        let said = text(&headers, "x-error-message").or_else(|| {
            let value: serde_json::Value = serde_json::from_str(&body).ok()?;
            Some(value.get("error")?.as_str()?.to_owned())
        });
        let said: String = said.unwrap_or_default().chars().filter(|c| !c.is_control()).take(300).collect();
        let mut message = format!("the server says {status}");
        if !said.is_empty() {
            message += &format!(" ({said})");
        }
        let passing = matches!(status, 408 | 416 | 425 | 429) || status >= 500;
        if !passing && home {
            return Trouble::Never { status, message };
        }
        if status == 429 {
            // One that is told to slow down slows down all.
            let until = Instant::now() + wish.unwrap_or(self.settings.retry.first_wait);
            let mut quiet = self.quiet_until.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            *quiet = (*quiet).max(Some(until));
        }
        Trouble::Again { reason: message, wish }
    }

    fn wait_for_quiet(&self, stop: &AtomicBool) {
        let until = *self.quiet_until.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(until) = until {
            // Not longer than a wish is followed, whatever was asked for.
            sleep(until.saturating_duration_since(Instant::now()).min(Duration::from_secs(15 * 60)), stop);
        }
    }

    /// Whether an address is the Hub's own: scheme, host and port.
    fn is_home(&self, url: &str) -> bool {
        origin(url).is_some_and(|there| Some(there) == origin(&self.settings.endpoint))
    }

    /// Where a redirect leads.
    fn follow(&self, url: &str, location: &str) -> Result<String, Trouble> {
        let next = join(url, location).ok_or_else(|| Trouble::again("a redirect to no address"))?;
        let next = self.at_home(next);
        if self.settings.endpoint.starts_with("https://") && !next.starts_with("https://") {
            return Err(Trouble::Never { status: 0, message: "it redirects to an address without encryption".into() });
        }
        Ok(next)
    }

    /// An address that a mirror copied from the real Hub, at the mirror.
    fn at_home(&self, url: String) -> String {
        match url.strip_prefix(Settings::real_hub()) {
            Some(rest) if rest.starts_with('/') => format!("{}{rest}", self.settings.endpoint),
            _ => url,
        }
    }

    /// The address of the next page, which must be the Hub's own.
    pub(super) fn next_page(&self, url: &str, next: &str) -> Option<String> {
        join(url, next).map(|next| self.at_home(next)).filter(|next| self.is_home(next))
    }
}

/// Waits, unless somebody wants to stop.
pub(super) fn sleep(wait: Duration, stop: &AtomicBool) {
    let until = Instant::now() + wait;
    while !stop.load(Ordering::Relaxed) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(SLICE));
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(|value| value.trim().to_owned())
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    text(headers, name)?.parse().ok()
}

/// An ETag without its quotes and its sign of weakness.
fn bare(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}

fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let port = uri.port_u16().or(match scheme.as_str() {
        "https" => Some(443),
        "http" => Some(80),
        _ => None,
    })?;
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// What a `Location` means from where it was found.
fn join(base: &str, location: &str) -> Option<String> {
    let uri: Uri = base.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    let lower = location.get(..8).unwrap_or(location).to_ascii_lowercase();
    Some(if lower.starts_with("http://") || lower.starts_with("https://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = &uri.path()[..=uri.path().rfind('/')?];
        format!("{scheme}://{authority}{folder}{location}")
    })
}

/// `bytes FIRST-LAST/WHOLE` as (first, whole).
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, whole) = value.strip_prefix("bytes")?.trim().split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.trim().parse().ok()?, whole.trim().parse().ok()))
}

/// The target of `rel="next"` in a `Link` header.
fn next_link(value: &str) -> Option<String> {
    let mut rest = value;
    while let Some((_, after)) = rest.split_once('<') {
        let (target, parameters) = after.split_once('>')?;
        let end = parameters.find('<').unwrap_or(parameters.len());
        let is_next = parameters[..end].split([';', ',']).any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            name.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
        });
        if is_next {
            return Some(target.to_owned());
        }
        rest = &parameters[end..];
    }
    None
}

/// How long the server wants to be left alone: `Retry-After` in seconds or as a date, or the `t` of the Hub's `RateLimit`,
/// as in `"resolvers";r=0;t=55`.
fn wish(headers: &HeaderMap) -> Option<Duration> {
    if let Some(after) = text(headers, "retry-after") {
        if let Ok(seconds) = after.parse::<u64>() {
            return Some(Duration::from_secs(seconds));
        }
        if let Ok(date) = jiff::fmt::rfc2822::parse(&after) {
            let until = SystemTime::from(date.timestamp());
            return Some(until.duration_since(SystemTime::now()).unwrap_or_default());
        }
    }
    let limit = text(headers, "ratelimit")?;
    let seconds = limit.split(';').find_map(|part| part.trim().strip_prefix("t=")?.parse().ok());
    seconds.map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_joined() {
        let base = "https://hub.example/datasets/a/b/resolve/main/x.json?q=1";
        for (location, joined) in [
            ("https://cdn.example/f?sig=1", "https://cdn.example/f?sig=1"),
            ("//cdn.example/f", "https://cdn.example/f"),
            ("/api/resolve-cache/f", "https://hub.example/api/resolve-cache/f"),
            ("y.json", "https://hub.example/datasets/a/b/resolve/main/y.json"),
        ] {
            assert_eq!(join(base, location).as_deref(), Some(joined));
        }
    }

    #[test]
    fn only_scheme_host_and_port_together_are_home() {
        let settings = Settings::from_environment(|name| (name == "HF_ENDPOINT").then(|| "https://hub.example".into()));
        let client = Client::new(&settings.unwrap());
        assert!(client.is_home("https://HUB.example:443/x"));
        for elsewhere in [
            "http://hub.example/x",
            "https://hub.example:8443/x",
            "https://cdn.hub.example/x",
            "https://hub.example.evil.org/x",
            "https://hub.example@evil.org/x",
            "/x",
            "",
        ] {
            assert!(!client.is_home(elsewhere), "{elsewhere}");
        }
        assert_eq!(client.at_home("https://huggingface.co/api/x".into()), "https://hub.example/api/x");
        assert_eq!(client.at_home("https://huggingface.com/x".into()), "https://huggingface.com/x");
        assert_eq!(client.next_page("https://hub.example/api/x", "https://evil.org/api/x?cursor=1"), None);
        let plain = client.follow("https://hub.example/x", "http://cdn.example/x");
        assert!(matches!(plain, Err(Trouble::Never { .. })));
    }

    #[test]
    fn this_machine_is_known_by_its_names() {
        for (host, local) in
            [("localhost", true), ("127.0.0.1", true), ("[::1]", true), ("127.0.0.1.evil.org", false), ("hub", false)]
        {
            assert_eq!(is_loopback(host), local, "{host}");
        }
    }

    #[test]
    fn headers_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        assert_eq!(content_range("items 5-9/10"), None);
        let link = "<https://h/api?cursor=a,b>; rel=\"prev\", <https://h/api?cursor=c>; rel=\"next\"";
        assert_eq!(next_link(link).as_deref(), Some("https://h/api?cursor=c"));
        assert_eq!(next_link("<https://h>; rel=prev"), None);
        assert_eq!(bare("W/\"abc\""), "abc");
        let wish = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            super::wish(&headers)
        };
        assert_eq!(wish("retry-after", "7"), Some(Duration::from_secs(7)));
        assert_eq!(wish("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(wish("retry-after", "Wed, 21 Oct 2099 07:28:00 GMT").unwrap() > Duration::from_secs(1 << 30));
        assert_eq!(wish("ratelimit", "\"resolvers\";r=0;t=55"), Some(Duration::from_secs(55)));
        assert_eq!(wish("retry-after", "soon"), None);
    }
}
