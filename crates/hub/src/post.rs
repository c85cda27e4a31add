//! Sends a document somewhere: one POST, tried again when the network or the server is at fault.

use std::time::Duration;

use ureq::Agent;

use crate::http::brief;
use crate::url::Url;
use crate::{Error, Result};

/// Longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 4096;

/// What is sent where, and how patiently.
#[derive(Clone, Debug)]
pub struct Post<'a> {
    /// An `http` or `https` address.
    pub endpoint: &'a str,
    /// A JSON document.
    pub body: &'a [u8],
    /// Making a connection, and waiting for the answer.
    pub timeout: Duration,
    /// Tries until it is given up.
    pub tries: u32,
    /// Pause after the first failure; doubles with each further one.
    pub pause: Duration,
}

impl<'a> Post<'a> {
    /// With the patience that suits a home line.
    pub fn new(endpoint: &'a str, body: &'a [u8]) -> Self {
        Self { endpoint, body, timeout: Duration::from_secs(20), tries: 4, pause: Duration::from_secs(1) }
    }
}

/// Sends it and returns the beginning of the answer; `retry` hears of each failed try and the pause after it.
///
/// Redirects are refused: what was shown to the user goes to the address that was shown, and nowhere else.
///
/// # Errors
/// [`Error::Setting`] for an address that is none, [`Error::Redirect`], [`Error::Status`] for what the server refuses,
/// [`Error::NotSent`] after the last try.
pub fn post(what: &Post<'_>, retry: &mut dyn FnMut(&Error, Duration)) -> Result<String> {
    Url::parse(what.endpoint).map_err(|why| Error::Setting {
        name: "endpoint",
        value: if what.endpoint.contains('@') { "(hidden)".into() } else { what.endpoint.to_owned() },
        why: why.into(),
    })?;
    let agent = Agent::config_builder()
        .user_agent(concat!("rustane/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_connect(Some(what.timeout))
        .timeout_recv_response(Some(what.timeout))
        .timeout_recv_body(Some(what.timeout))
        .build()
        .new_agent();
    for tried in 1.. {
        let (error, again) = match once(&agent, what) {
            Ok(answer) => return Ok(answer),
            Err(fault) => fault,
        };
        if !again {
            return Err(error);
        }
        if tried >= what.tries {
            return Err(Error::NotSent { tries: tried, last: Box::new(error) });
        }
        let wait = what.pause.saturating_mul(1 << (tried - 1).min(16));
        retry(&error, wait);
        std::thread::sleep(wait);
    }
    unreachable!("the loop counts up to the last try")
}

/// One try: the answer, or the error and whether another try may do better.
fn once(agent: &Agent, what: &Post<'_>) -> Result<String, (Error, bool)> {
    let url = || what.endpoint.split('?').next().unwrap_or_default().to_owned();
    let sent = agent.post(what.endpoint).header("content-type", "application/json").send(what.body);
    let mut response = sent.map_err(|e| (Error::Network { url: url(), source: e.into_io() }, true))?;
    let status = response.status().as_u16();
    if response.status().is_redirection() {
        let to = response.headers().get("location").and_then(|v| v.to_str().ok()).unwrap_or("nowhere");
        let why = format!("to `{}`; give that address if you trust it", brief(to));
        return Err((Error::Redirect { url: url(), why }, false));
    }
    let body = response.body_mut().with_config().limit(MAX_ANSWER).read_to_string().unwrap_or_default();
    if response.status().is_success() {
        return Ok(brief(&body));
    }
    let reason = if body.trim().is_empty() { String::new() } else { format!(", {}", brief(&body)) };
    Err((
        Error::Status { url: url(), status, reason },
        matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504),
    ))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_server_that_never_answers_is_given_up() {
        // It takes connections, and says nothing.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let short = Duration::from_millis(100);
        let what =
            Post { timeout: short, tries: 3, pause: Duration::from_millis(1), ..Post::new(&url, b"{}") };
        let (begin, mut heard) = (Instant::now(), 0);
        let error = post(&what, &mut |_, _| heard += 1).unwrap_err();
        assert!(matches!(error, Error::NotSent { tries: 3, .. }), "{error}");
        assert_eq!(heard, 2);
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    }

    #[test]
    fn an_address_that_is_none_is_refused() {
        for (url, wanted) in [
            ("example.org", "does not begin with http"),
            ("http://", "names no host"),
            ("http://a@b/", "(hidden)"),
        ] {
            let error = post(&Post::new(url, b""), &mut |_, _| {}).unwrap_err().to_string();
            assert!(error.contains(wanted), "{url}: {error}");
        }
    }
}
