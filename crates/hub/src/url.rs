use std::fmt;

/// An `http` or `https` address, split where redirects and tokens need it split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    https: bool,
    /// `host` or `host:port`, lower case.
    authority: String,
    /// Path and query, beginning with `/`.
    rest: String,
}

impl Url {
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let (https, tail) = match text.split_once("://") {
            Some((scheme, tail)) if scheme.eq_ignore_ascii_case("https") => (true, tail),
            Some((scheme, tail)) if scheme.eq_ignore_ascii_case("http") => (false, tail),
            _ => return Err("it does not begin with http:// or https://"),
        };
        if text.len() > 16 << 10 {
            return Err("it is longer than 16 KiB");
        }
        if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\') {
            return Err("it has a blank, a backslash or a character that is not ASCII");
        }
        let tail = tail.split('#').next().unwrap_or_default();
        let at = tail.find(['/', '?']).unwrap_or(tail.len());
        let (authority, rest) = tail.split_at(at);
        if authority.contains('@') {
            return Err("it carries a user name");
        }
        if authority.is_empty() || authority.starts_with(':') {
            return Err("it names no host");
        }
        let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
        Ok(Self { https, authority: authority.to_ascii_lowercase(), rest })
    }

    /// This address with `path` (and query) put after its own path.
    pub(crate) fn at(&self, path: &str) -> Self {
        Self { rest: format!("{}{path}", self.rest.trim_end_matches('/')), ..self.clone() }
    }

    /// The address that a `Location` header names, seen from this one; never from `https` to `http`. RFC 3986, 5.2.
    pub(crate) fn join(&self, location: &str) -> Result<Self, &'static str> {
        let scheme = if self.https { "https" } else { "http" };
        let path = self.rest.split('?').next().unwrap_or_default();
        let text = if location.split(['/', '?', '#']).next().is_some_and(|first| first.contains(':')) {
            location.to_owned()
        } else if location.starts_with("//") {
            format!("{scheme}:{location}")
        } else if location.starts_with('/') {
            format!("{scheme}://{}{location}", self.authority)
        } else if location.starts_with('?') {
            format!("{scheme}://{}{path}{location}", self.authority)
        } else {
            let folder = &path[..=path.rfind('/').unwrap_or(0)];
            format!("{scheme}://{}{folder}{location}", self.authority)
        };
        let mut url = Self::parse(&text)?;
        if self.https && !url.https {
            return Err("it is not encrypted, the address it comes from is");
        }
        url.rest = without_dots(&url.rest);
        Ok(url)
    }

    /// Same scheme, host and port: the token may go there.
    pub(crate) fn same_origin(&self, other: &Self) -> bool {
        self.https == other.https && self.host_and_port() == other.host_and_port()
    }

    fn host_and_port(&self) -> (&str, &str) {
        let default = if self.https { "443" } else { "80" };
        match self.authority.rsplit_once(':') {
            // A colon inside brackets belongs to an IPv6 address.
            Some((host, port)) if !port.contains(']') => (host, if port.is_empty() { default } else { port }),
            _ => (&self.authority, default),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.https { "https" } else { "http" }, self.authority, self.rest)
    }
}

/// Resolves `.` and `..` in the path; the query stays as it is.
fn without_dots(rest: &str) -> String {
    let (path, query) = rest.find('?').map_or((rest, ""), |at| rest.split_at(at));
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').skip(1) {
        match part {
            "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if path.ends_with("/.") || path.ends_with("/..") {
        parts.push("");
    }
    format!("/{}{query}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_every_form_of_location() {
        let base = Url::parse("http://Hub.example:8080/a/b/c?q=1#f").unwrap();
        assert_eq!(base.to_string(), "http://hub.example:8080/a/b/c?q=1");
        for (location, wanted) in [
            ("https://cdn.example/x?sig=a/b", "https://cdn.example/x?sig=a/b"),
            ("//cdn.example/x", "http://cdn.example/x"),
            ("/x/y?z", "http://hub.example:8080/x/y?z"),
            ("x", "http://hub.example:8080/a/b/x"),
            ("../x", "http://hub.example:8080/a/x"),
            ("../../../x/./y/..", "http://hub.example:8080/x/"),
            ("?only", "http://hub.example:8080/a/b/c?only"),
        ] {
            assert_eq!(base.join(location).unwrap().to_string(), wanted);
        }
        for bad in [
            "ftp://x/y",
            "file:///etc/passwd",
            "http://u:p@x/",
            "http://",
            "/a b",
            "javascript:x",
            "http://:80/",
        ] {
            assert!(base.join(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn encryption_is_kept() {
        let base = Url::parse("https://hub.example/a").unwrap();
        assert!(base.join("http://hub.example/a").unwrap_err().contains("not encrypted"));
        assert!(base.join("//cdn.example/a").unwrap().https);
    }

    #[test]
    fn origin_is_scheme_host_and_port() {
        let url = |text| Url::parse(text).unwrap();
        assert!(url("https://a/x").same_origin(&url("https://A:443/y")));
        assert!(!url("https://a/x").same_origin(&url("http://a:443/x")));
        assert!(!url("http://a:1/x").same_origin(&url("http://a:2/x")));
        assert!(!url("http://a/x").same_origin(&url("http://a.b/x")));
        assert!(url("http://[::1]/x").same_origin(&url("http://[::1]:80/x")));
    }
}
