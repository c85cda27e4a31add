use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Error, Result};

/// Where the hub is, where its cache is, and how patient to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `https://huggingface.co` or a mirror, without a slash at the end.
    pub endpoint: String,
    /// The folder that holds `models--org--name` and `datasets--org--name`.
    pub cache: PathBuf,
    /// Access token.
    pub token: Option<Secret>,
    /// Where to read the token from when `token` is `None`; need not exist.
    pub token_file: Option<PathBuf>,
    /// Use only what is in the cache.
    pub offline: bool,
    /// Proxy, as `http://[user:password@]host:port`.
    pub proxy: Option<Secret>,
    /// Hosts that the proxy is not used for.
    pub no_proxy: Vec<String>,
    /// Pauses and limits.
    pub times: Times,
}

impl Settings {
    /// The hub itself, with this cache folder, no token and no proxy.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self {
            endpoint: "https://huggingface.co".into(),
            cache: cache.into(),
            token: None,
            token_file: None,
            offline: false,
            proxy: None,
            no_proxy: Vec::new(),
            times: Times::default(),
        }
    }

    /// The settings that `huggingface_hub` takes from these variables: `HF_ENDPOINT`, `HF_HUB_CACHE` (or
    /// `HF_HOME`, `XDG_CACHE_HOME`, `HOME`), `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE`, and the usual proxy
    /// ones. `var` reads one variable. Empty ones count as unset.
    ///
    /// Errors: [`Error::NoHome`] when nothing says where the cache is.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let any = |names: &[&str]| names.iter().find_map(|n| var(n).filter(|v| !v.trim().is_empty()));
        let user = any(&["HOME", "USERPROFILE"]);
        let path = |text: String| match (text.strip_prefix("~/"), &user) {
            (Some(rest), Some(user)) => Path::new(user).join(rest),
            _ => PathBuf::from(text),
        };
        let home = any(&["HF_HOME"])
            .map(path)
            .or_else(|| any(&["XDG_CACHE_HOME"]).map(|p| path(p).join("huggingface")))
            .or_else(|| user.as_ref().map(|p| Path::new(p).join(".cache/huggingface")));
        let cache = any(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]).map(path);
        let cache = cache.or_else(|| home.as_ref().map(|home| home.join("hub"))).ok_or(Error::NoHome)?;

        let mut settings = Self::new(cache);
        if let Some(endpoint) = any(&["HF_ENDPOINT"]) {
            settings.endpoint = endpoint.trim().trim_end_matches('/').into();
        }
        settings.token = any(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]).map(|t| Secret::new(t.trim()));
        settings.token_file = any(&["HF_TOKEN_PATH"]).map(path).or_else(|| home.map(|h| h.join("token")));
        settings.offline = any(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
            .is_some_and(|v| ["1", "true", "yes", "on"].contains(&v.trim().to_ascii_lowercase().as_str()));
        // `HTTP_PROXY` in capitals is left out: a CGI server sets it from a request header.
        settings.proxy = match settings.endpoint.starts_with("https:") {
            true => any(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
            false => any(&["http_proxy", "all_proxy", "ALL_PROXY"]),
        }
        .map(Secret::new);
        settings.no_proxy = any(&["no_proxy", "NO_PROXY"])
            .map(|v| v.split(',').map(|h| h.trim().to_owned()).filter(|h| !h.is_empty()).collect())
            .unwrap_or_default();
        Ok(settings)
    }
}

/// An access token, or a proxy's address with its password. The `Debug` form hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps the text, for a token the one that the hub gave out (`hf_…`).
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// The value of the `Authorization` header, or why it cannot be one.
    pub(crate) fn authorization(&self) -> Result<String> {
        if self.0.is_empty() || !self.0.bytes().all(|b| b.is_ascii_graphic()) {
            let why = "it must be one line of letters, digits and signs".into();
            return Err(Error::Setting { name: "token", value: "(hidden)".into(), why });
        }
        Ok(format!("Bearer {}", self.0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Pauses and limits. The defaults suit a home line; tests set them short.
#[derive(Clone, Debug)]
pub struct Times {
    /// Making a connection.
    pub connect: Duration,
    /// From a request to the head of its answer.
    pub answer: Duration,
    /// One read that brings nothing.
    pub idle: Duration,
    /// Fewer than `slow_bytes` bytes in this time count as a broken connection.
    pub slow_window: Duration,
    /// See `slow_window`.
    pub slow_bytes: u64,
    /// Failed tries in a row, without progress, until a request is given up.
    pub tries: u32,
    /// Bytes that a try must add to count as progress.
    pub progress_bytes: u64,
    /// Pause after the first failure; doubles with each further one.
    pub pause: Duration,
    /// The longest pause, also when a server asks for a longer one.
    pub pause_max: Duration,
    /// Waiting for another process that downloads the same file.
    pub lock: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(20),
            answer: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            slow_window: Duration::from_secs(60),
            slow_bytes: 16 << 10,
            tries: 5,
            progress_bytes: 64 << 10,
            pause: Duration::from_secs(1),
            pause_max: Duration::from_secs(60),
            lock: Duration::from_secs(3600),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(vars: &[(&str, &str)]) -> Result<Settings> {
        Settings::from_vars(|name| vars.iter().find(|v| v.0 == name).map(|v| v.1.to_owned()))
    }

    #[test]
    fn cache_folder_follows_the_variables_in_order() {
        let mut vars = vec![("HOME", "/home/a")];
        assert_eq!(from(&vars).unwrap().cache, Path::new("/home/a/.cache/huggingface/hub"));
        vars.push(("XDG_CACHE_HOME", "/x"));
        assert_eq!(from(&vars).unwrap().cache, Path::new("/x/huggingface/hub"));
        vars.push(("HF_HOME", "~/hf"));
        let settings = from(&vars).unwrap();
        assert_eq!(settings.cache, Path::new("/home/a/hf/hub"));
        assert_eq!(settings.token_file.as_deref(), Some(Path::new("/home/a/hf/token")));
        vars.push(("HF_HUB_CACHE", "/c"));
        assert_eq!(from(&vars).unwrap().cache, Path::new("/c"));
        assert!(matches!(from(&[("HF_HOME", " ")]), Err(Error::NoHome)));
    }

    #[test]
    fn reads_endpoint_token_offline_and_proxy() {
        let settings = from(&[
            ("HF_HOME", "/h"),
            ("HF_ENDPOINT", "https://mirror.example/"),
            ("HF_TOKEN", " hf_secret\n"),
            ("HF_HUB_OFFLINE", "YES"),
            ("HTTPS_PROXY", "http://p:3128"),
            ("NO_PROXY", "localhost, .example"),
        ])
        .unwrap();
        assert_eq!(settings.endpoint, "https://mirror.example");
        assert_eq!(settings.token, Some(Secret::new("hf_secret")));
        assert!(settings.offline);
        assert_eq!(settings.proxy, Some(Secret::new("http://p:3128")));
        assert_eq!(settings.no_proxy, ["localhost", ".example"]);
        assert!(!format!("{settings:?}").contains("secret"));
        assert!(!from(&[("HF_HOME", "/h"), ("HF_HUB_OFFLINE", "0")]).unwrap().offline);
    }

    #[test]
    fn a_token_of_two_lines_is_refused_without_showing_it() {
        let error = Secret::new("hf_a\r\nX: y").authorization().unwrap_err().to_string();
        assert!(error.contains("token") && !error.contains("hf_a"), "{error}");
    }
}
