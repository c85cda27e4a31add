//! One request: redirects, the token's reach, statuses, and which failures are worth another try.

use std::io::Read;
use std::time::Duration;

use ureq::http::{HeaderMap, Response, header};
use ureq::{Agent, Body, Proxy};

use crate::url::Url;
use crate::{Error, Event, Result, Settings, Times, Watch};

/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 10;

/// A failed try, and whether another one may do better.
pub(crate) struct Fault {
    pub(crate) error: Error,
    pub(crate) again: bool,
    /// The pause that the server asked for.
    after: Option<Duration>,
}

impl Fault {
    pub(crate) fn again(error: Error) -> Self {
        Self { error, again: true, after: None }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self { error, again: false, after: None }
    }
}

/// Counts failed tries in a row and pauses between them.
pub(crate) struct Tries<'a> {
    times: &'a Times,
    failed: u32,
}

impl<'a> Tries<'a> {
    pub(crate) fn new(times: &'a Times) -> Self {
        Self { times, failed: 0 }
    }

    /// Pauses before the next try, or ends with the fault's error. A failed try that made progress does not count,
    /// and neither do those before it.
    pub(crate) fn after(&mut self, fault: Fault, progress: bool, watch: &mut Watch<'_>) -> Result<()> {
        if !fault.again {
            return Err(fault.error);
        }
        self.failed = if progress { 0 } else { self.failed + 1 };
        if self.failed >= self.times.tries {
            return Err(Error::GaveUp { tries: self.failed, last: Box::new(fault.error) });
        }
        let doubled = self.times.pause.saturating_mul(1 << self.failed.saturating_sub(1).min(16));
        let wait = doubled.max(fault.after.unwrap_or_default()).min(self.times.pause_max);
        watch.report(Event::Retry { error: &fault.error, wait });
        watch.sleep(wait)
    }
}

/// Which answers end a chain of redirects.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follow {
    /// Only an answer that is no redirect.
    ToTheEnd,
    /// Also a redirect that already describes the file, or one that leaves the hub.
    OnTheHub,
}

/// Sends requests to the hub and to where it redirects.
pub(crate) struct Client {
    agent: Agent,
    endpoint: Url,
    authorization: Option<String>,
    times: Times,
}

impl Client {
    pub(crate) fn new(settings: &Settings) -> Result<Self> {
        let endpoint = Url::parse(&settings.endpoint).map_err(|why| Error::Setting {
            name: "endpoint",
            // What comes before an `@` may be a password.
            value: if settings.endpoint.contains('@') {
                "(hidden)".into()
            } else {
                settings.endpoint.clone()
            },
            why: why.into(),
        })?;
        let times = settings.times.clone();
        let agent = Agent::config_builder()
            .user_agent(concat!("rustane/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(proxy(settings)?)
            .timeout_connect(Some(times.connect))
            .timeout_recv_response(Some(times.answer))
            .timeout_per_read(Some(times.idle))
            .build()
            .new_agent();
        let authorization = settings.token.as_ref().map(|token| token.authorization()).transpose()?;
        Ok(Self { agent, endpoint, authorization, times })
    }

    pub(crate) fn times(&self) -> &Times {
        &self.times
    }

    /// The address of a path on the hub.
    pub(crate) fn url(&self, path: &str) -> Url {
        self.endpoint.at(path)
    }

    /// Sends a request and follows redirects. Statuses that are no success are faults.
    pub(crate) fn send(
        &self,
        method: &str,
        url: &Url,
        headers: &[(&str, &str)],
        follow: Follow,
    ) -> Result<Reply, Fault> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send_once(method, &url, headers)?;
            let reply = Reply { url, response };
            if !matches!(reply.status(), 301 | 302 | 303 | 307 | 308) {
                return reply.check();
            }
            let next = Self::target(&reply)?;
            let described = reply.header("x-linked-etag").is_some();
            if follow == Follow::OnTheHub && (described || !next.same_origin(&self.endpoint)) {
                return Ok(reply);
            }
            url = next;
        }
        let why = format!("more than {MAX_REDIRECTS} in a row");
        Err(Error::Redirect { url: url.to_string(), why }.into())
    }

    fn target(reply: &Reply) -> Result<Url> {
        let fail = |why: String| Error::Redirect { url: reply.url.to_string(), why };
        let location = reply.header("location").ok_or_else(|| fail("it says not where to".into()))?;
        reply.url.join(location).map_err(|why| fail(format!("`{}`: {why}", brief(location))))
    }

    fn send_once(&self, method: &str, url: &Url, headers: &[(&str, &str)]) -> Result<Response<Body>, Fault> {
        let text = url.to_string();
        let mut request = match method {
            "HEAD" => self.agent.head(&text),
            _ => self.agent.get(&text),
        };
        // The hash and the length are those of the plain bytes.
        request = request.header(header::ACCEPT_ENCODING, "identity");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(authorization) = self.authorization.as_ref().filter(|_| url.same_origin(&self.endpoint)) {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        request.call().map_err(|error| {
            let again = !matches!(
                error,
                ureq::Error::Http(_)
                    | ureq::Error::BadUri(_)
                    | ureq::Error::Tls(_)
                    | ureq::Error::Rustls(_)
                    | ureq::Error::LargeResponseHeader(..)
            );
            Fault {
                error: Error::Network { url: without_query(url), source: error.into_io() },
                again,
                after: None,
            }
        })
    }
}

fn proxy(settings: &Settings) -> Result<Option<Proxy>> {
    let Some(address) = &settings.proxy else { return Ok(None) };
    let build = || {
        let plain = Proxy::new(address.text())?;
        let mut builder = Proxy::builder(plain.protocol()).host(plain.host()).port(plain.port());
        if let Some(name) = plain.username() {
            builder = builder.username(name);
        }
        if let Some(password) = plain.password() {
            builder = builder.password(password);
        }
        settings.no_proxy.iter().fold(builder, |builder, host| builder.no_proxy(host)).build()
    };
    build().map(Some).map_err(|error: ureq::Error| Error::Setting {
        name: "proxy",
        value: "(hidden)".into(),
        why: error.to_string(),
    })
}

/// The answer to a request, and the address that gave it.
pub(crate) struct Reply {
    url: Url,
    response: Response<Body>,
}

impl Reply {
    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub(crate) fn is_redirect(&self) -> bool {
        self.response.status().is_redirection()
    }

    /// The address without its query, which may hold a signature.
    pub(crate) fn url(&self) -> String {
        without_query(&self.url)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        text(self.response.headers(), name)
    }

    /// A header that is a number of bytes; one that is no number is refused.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>> {
        let parse = |value: &str| {
            let why = || format!("its header `{name}` is `{}`, not a number of bytes", brief(value));
            value.trim().parse().map_err(|_| Error::Answer { url: self.url(), why: why() })
        };
        self.header(name).map(parse).transpose()
    }

    pub(crate) fn into_reader(self) -> impl Read {
        self.response.into_body().into_reader()
    }

    fn check(mut self) -> Result<Self, Fault> {
        let status = self.status();
        if matches!(status, 200 | 206 | 416) {
            return Ok(self);
        }
        let (url, reason) = (self.url(), self.reason());
        let after = self.header("retry-after").and_then(|v| v.trim().parse().ok()).map(Duration::from_secs);
        let again = matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504);
        let error = match status {
            404 | 410 => Error::NotFound { url, status, reason },
            401 | 403 => Error::NoAccess { url, status, reason },
            _ => Error::Status { url, status, reason },
        };
        Err(Fault { error, again, after })
    }

    /// The server's own words, shortened: the hub's error header, or `error` of a small JSON body.
    fn reason(&mut self) -> String {
        #[derive(serde::Deserialize)]
        struct Body {
            error: String,
        }
        let header = self.header("x-error-message").map(brief);
        let words = header.or_else(|| {
            let body = self.response.body_mut().with_config().limit(4096).read_to_vec().ok()?;
            serde_json::from_slice::<Body>(&body).ok().map(|body| brief(&body.error))
        });
        words.map_or_else(String::new, |words| format!(", {words}"))
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn without_query(url: &Url) -> String {
    let text = url.to_string();
    text.split('?').next().unwrap_or_default().to_owned()
}

/// The beginning of a foreign text, on one line.
pub(crate) fn brief(text: &str) -> String {
    let line: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    line.trim().to_owned()
}
