//! Who may ask: the key, the name that the server was called by, and other sites' pages.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use axum::extract::Request;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, AUTHORIZATION, HOST, VARY, WWW_AUTHENTICATE,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;
use crate::serve::Settings;

/// A site as browsers name it, such as `https://example.org`; `*` for all.
#[derive(Clone, Debug)]
pub struct Origin(HeaderValue);

impl FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fine = text == "*"
            || text.split_once("://").is_some_and(|(_, host)| !host.is_empty() && !host.contains('/'));
        let value = HeaderValue::from_str(text).ok().filter(|_| fine);
        value.map(Self).ok_or("wanted such as https://example.org, or *")
    }
}

/// What a request needs to come in.
#[derive(Clone)]
pub struct Guard {
    /// The hash of the key: equal lengths, and compared in a time that says nothing of the key.
    key: Option<blake3::Hash>,
    cors: Option<HeaderValue>,
    /// Only this machine can reach the address, and nobody has to know a key.
    local: bool,
}

impl Guard {
    /// By the settings, for an address.
    pub fn new(settings: &Settings, address: SocketAddr) -> Self {
        Self {
            key: settings.api_key.as_ref().map(|key| blake3::hash(key.as_bytes())),
            cors: settings.cors.as_ref().map(|Origin(origin)| origin.clone()),
            local: address.ip().is_loopback() && settings.api_key.is_none(),
        }
    }

    /// What is answered without asking anybody else; nothing when the request may come in.
    pub fn stop(&self, request: &Request) -> Option<Response> {
        let header = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        // A page whose name leads to this machine is a stranger all the same.
        if self.local && header(HOST).is_some_and(|host| !is_local(host)) {
            let message = "this server answers to localhost and to addresses; to give it another name, give it an \
                           --api-key";
            return Some(
                ApiError::new(StatusCode::FORBIDDEN, message).with_code("wrong_host").into_response(),
            );
        }
        if request.method() == Method::OPTIONS && self.cors.is_some() {
            return Some(self.leave(request));
        }
        let key = self.key.as_ref().filter(|_| request.uri().path() != "/health")?;
        let given = header(AUTHORIZATION).and_then(|value| value.split_once(' '));
        let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        if given.is_some_and(|(_, given)| blake3::hash(given.trim().as_bytes()) == *key) {
            return None;
        }
        let message = "the API key is missing or wrong; send `Authorization: Bearer KEY`";
        let error = ApiError::new(StatusCode::UNAUTHORIZED, message).with_code("invalid_api_key");
        let mut response = error.into_response();
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        Some(response)
    }

    /// Tells a browser that a page may read the answer.
    pub fn mark(&self, response: &mut Response) {
        if let Some(origin) = &self.cors {
            response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            response.headers_mut().insert(VARY, HeaderValue::from_static("Origin"));
        }
    }

    /// The answer to a browser that asks on behalf of a page.
    fn leave(&self, request: &Request) -> Response {
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        if let Some(asked) = request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
        response
    }
}

/// Whether a `Host` names this machine, or any by its address, which no page can make its own.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_others_are_not_local() {
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "[::1]:8080", "[::1]", "10.0.0.7"] {
            assert!(is_local(host), "{host}");
        }
        for host in
            ["", "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example"]
        {
            assert!(!is_local(host), "{host}");
        }
    }
}
