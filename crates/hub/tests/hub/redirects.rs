//! Where a hub may send a request, and what goes along.

use std::fs;

use hub::{Error, Secret};

use crate::server::{COMMIT, Files, Place, Seen, Server, reply};

const FILE: &str = "data.bin";

/// A server that holds the bytes of `data.bin` under any path.
fn content_server(files: &Files) -> Server {
    let files = files.clone();
    Server::start(move |seen, stream| files.send_from(FILE, seen.range(), stream, &[]))
}

/// An honest hub that redirects requests for a file, with the headers of the real one.
fn redirecting(files: &Files, location: impl Fn(&Seen) -> Option<String> + Send + Sync + 'static) -> Server {
    let files = files.clone();
    Server::start(move |seen, stream| {
        let target = if seen.path.contains("/resolve/") { location(seen) } else { None };
        let Some(target) = target else { return files.answer(seen, stream) };
        let file = &files.0[FILE];
        let headers = [
            ("location", target),
            ("x-repo-commit", COMMIT.to_owned()),
            ("x-linked-etag", format!("\"{}\"", file.etag())),
            ("x-linked-size", file.bytes.len().to_string()),
        ];
        reply(stream, "302 Found", &headers, b"Found. Redirecting to elsewhere");
    })
}

#[test]
fn the_token_goes_to_the_hub_only() {
    let files = Files::one(5_000);
    let elsewhere = content_server(&files);
    let url = elsewhere.url();
    let hub = redirecting(&files, move |_| Some(format!("{url}/blob?signature=secret")));
    Place::new(&hub.url()).pull_all(&files);
    assert!(hub.seen().iter().all(|seen| seen.header("authorization") == Some("Bearer hf_test")));
    assert_eq!(elsewhere.seen().len(), 1);
    assert!(elsewhere.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

#[test]
fn without_a_token_none_is_sent() {
    let files = Files::one(10);
    let hub = Server::honest(&files);
    let mut place = Place::new(&hub.url());
    place.settings.token = None;
    place.pull_all(&files);
    assert!(hub.seen().iter().all(|seen| seen.header("authorization").is_none()));

    let mut place = Place::new(&hub.url());
    let path = place.root().join("token");
    fs::write(&path, "hf_from_file\n").unwrap();
    (place.settings.token, place.settings.token_file) = (None, Some(path));
    place.pull_all(&files);
    assert_eq!(hub.seen().last().unwrap().header("authorization"), Some("Bearer hf_from_file"));
}

#[test]
fn a_renamed_repository_is_followed() {
    let files = Files::one(5_000);
    let inner = files.clone();
    let hub = Server::start(move |seen, stream| match seen.path.contains("org/name") {
        true => {
            let location = seen.path.replace("org/name", "new/place");
            reply(stream, "307 Temporary Redirect", &[("location", location)], b"");
        }
        false => inner.answer(seen, stream),
    });
    Place::new(&hub.url()).pull_all(&files);
    assert!(hub.seen().iter().all(|seen| seen.header("authorization").is_some()));
}

#[test]
fn ranges_survive_redirects() {
    let files = Files::one(5_000);
    let inner = files.clone();
    let elsewhere = Server::start(move |seen, stream| match seen.range() {
        None => inner.cut(FILE, None, 3_000, stream),
        range => inner.send_from(FILE, range, stream, &[]),
    });
    let url = elsewhere.url();
    let hub = redirecting(&files, move |_| Some(format!("{url}/x")));
    Place::new(&hub.url()).pull_all(&files);
    let asked: Vec<_> = elsewhere.seen().iter().map(Seen::range).collect();
    assert_eq!(asked, [None, Some(3_000)]);
    assert_eq!(hub.gets_of(FILE).len(), 2, "each try gets a fresh address");
}

#[test]
fn loops_end() {
    let files = Files::one(5_000);
    let hub = redirecting(&files, |seen| Some(format!("{}?again", seen.path)));
    let error = Place::new(&hub.url()).pull_fails(&files);
    assert!(matches!(&error, Error::Redirect { why, .. } if why == "more than 10 in a row"), "{error}");
    assert_eq!(hub.gets_of("?again").len() + hub.gets_of(FILE).len(), 11);

    let (a, files) = (Files::one(1), Files::one(1));
    let ping = Server::start(move |seen, stream| match seen.path.starts_with("/api") {
        true => a.answer(seen, stream),
        false => reply(stream, "301 Moved", &[("location", seen.path.clone())], b""),
    });
    let error = Place::new(&ping.url()).pull_fails(&files);
    assert!(matches!(error, Error::Redirect { .. }), "{error}");
}

#[test]
fn redirects_to_no_web_address_are_refused() {
    for target in
        ["file:///etc/passwd", "ftp://x/y", "http://", "http://user@host/", "http://a\\b/", "gopher:x"]
    {
        let files = Files::one(100);
        let hub = redirecting(&files, move |seen| (seen.method == "GET").then(|| target.to_owned()));
        let error = Place::new(&hub.url()).pull_fails(&files);
        assert!(matches!(error, Error::Redirect { .. }), "{target}: {error}");
    }
    let files = Files::one(100);
    let hub = Server::spoiling(&files, FILE, |_, _, stream, _| reply(stream, "302 Found", &[], b""));
    let error = Place::new(&hub.url()).pull_fails(&files).to_string();
    assert!(error.contains("it says not where to"), "{error}");
}

#[test]
fn errors_show_neither_token_nor_signature() {
    let files = Files::one(100);
    let elsewhere = Server::start(|_, stream| reply(stream, "403 Forbidden", &[], b""));
    let url = elsewhere.url();
    let hub = redirecting(&files, move |_| Some(format!("{url}/x?X-Amz-Signature=0badcafe")));
    let mut place = Place::new(&hub.url());
    place.settings.token = Some(Secret::new("hf_precious"));
    let error = place.pull_fails(&files);
    let text = format!("{error} {error:?} {:?}", place.settings);
    assert!(!text.contains("0badcafe") && !text.contains("hf_precious"), "{text}");
}
