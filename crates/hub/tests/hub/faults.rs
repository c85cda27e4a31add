//! Connections that break, answers that lie, bytes that are not the file's.

use std::fs;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hub::{Error, Event};

use crate::server::{COMMIT, Files, Noise, Place, Seen, Server, html, noise, reply};

const FILE: &str = "data.bin";

fn last(error: &Error) -> &Error {
    if let Error::GaveUp { last, .. } = error { last } else { error }
}

#[test]
fn cuts_at_random_places_are_resumed() {
    for seed in 0..50 {
        let files = Files::one(20_000);
        let noise = Mutex::new(Noise::new(seed));
        let server = Server::spoiling(&files, FILE, move |_, seen, stream, files| {
            let upto = noise.lock().unwrap().below(9_000);
            files.cut(FILE, seen.range(), upto, stream);
        });
        let mut place = Place::new(&server.url());
        place.settings.times.tries = 10;
        place.pull_all(&files);
        let gets = server.gets_of(FILE);
        assert!(gets.len() >= 3 && gets.iter().skip(1).any(|get| get.range().is_some()), "seed {seed}");
    }
}

#[test]
fn cuts_in_the_middle_of_headers_are_survived() {
    for seed in 0..20 {
        let files = Files::one(2_000);
        let inner = files.clone();
        let noise = Mutex::new(Noise::new(seed));
        let server = Server::start(move |seen, stream| {
            let upto = noise.lock().unwrap().below(150);
            if upto < 90 {
                let _ = stream.write_all(
                    &b"HTTP/1.1 200 OK\r\ncontent-length: 20000\r\netag: \"x\"\r\nx-a: b\r\n"[..upto.min(60)],
                );
            } else {
                inner.answer(seen, stream);
            }
        });
        let mut place = Place::new(&server.url());
        place.settings.times.tries = 40;
        place.pull_all(&files);
    }
}

#[test]
fn a_later_call_goes_on_where_an_earlier_one_ended() {
    let files = Files::one(10_000);
    let server = Server::spoiling(&files, FILE, |n, seen, stream, files| match n {
        0 => files.cut(FILE, seen.range(), 6_000, stream),
        _ => files.answer(seen, stream),
    });
    let mut place = Place::new(&server.url());
    place.settings.times.tries = 1;
    place.settings.times.progress_bytes = 1 << 20;
    let error = place.pull_fails(&files);
    assert!(matches!(error, Error::GaveUp { tries: 1, .. }), "{error}");
    assert_eq!(place.partials(), [6_000]);

    place.pull_all(&files);
    let gets = server.gets_of(FILE);
    assert_eq!(gets.iter().map(|get| get.range()).collect::<Vec<_>>(), [None, Some(6_000)]);
    assert_eq!(place.partials(), [0; 0]);
}

#[test]
fn a_partial_file_that_lies_costs_one_clean_try() {
    for (len, name) in [(4_000, "incomplete"), (9_000, "1f2e3d4c.incomplete"), (9_001, "incomplete")] {
        let files = Files::one(9_000);
        let server = Server::honest(&files);
        let place = Place::new(&server.url());
        fs::create_dir_all(place.repo().join("blobs")).unwrap();
        fs::write(place.blob(&format!("{}.{name}", files.etag(FILE))), vec![0; len]).unwrap();
        place.pull_all(&files);
        assert_eq!(place.partials(), [0; 0]);
        assert_eq!(server.gets_of(FILE).last().unwrap().range(), None);
    }
}

#[test]
fn a_server_without_ranges_starts_over() {
    let files = Files::one(10_000);
    let server = Server::spoiling(&files, FILE, |n, _, stream, files| match n {
        0..2 => files.cut(FILE, None, 5_000, stream),
        _ => files.send_from(FILE, None, stream, &[]),
    });
    let place = Place::new(&server.url());
    place.pull_all(&files);
    assert_eq!(server.gets_of(FILE).len(), 3);
}

#[test]
fn a_server_without_ranges_that_always_breaks_off_is_given_up() {
    let files = Files::one(10_000);
    let server = Server::spoiling(&files, FILE, |_, _, stream, files| files.cut(FILE, None, 9_000, stream));
    let error = Place::new(&server.url()).pull_fails(&files);
    assert!(matches!(error, Error::GaveUp { tries: 4, .. }), "{error}");
    assert_eq!(server.gets_of(FILE).len(), 5, "the first cut was progress, four more were not");
}

#[test]
fn a_wrong_range_is_not_taken() {
    let ranges = [
        "bytes 0-9999/10000",
        "bytes 5001-9999/10000",
        "bytes 5000-9999/12000",
        "bytes x-y/z",
        "bytes */10000",
        "",
    ];
    for range in ranges {
        let files = Files::one(10_000);
        let server = Server::spoiling(&files, FILE, move |n, seen, stream, files| match n {
            0 => files.cut(FILE, None, 5_000, stream),
            1 => {
                let headers = [("content-range", range.to_owned())];
                reply(stream, "206 Partial Content", &headers, &noise(9, 5_000));
            }
            _ => files.answer(seen, stream),
        });
        let place = Place::new(&server.url());
        let mut failures = Vec::new();
        place
            .pull_watched(&AtomicBool::new(false), &mut |event| {
                if let Event::Retry { error, .. } = event {
                    failures.push(error.to_string());
                }
            })
            .unwrap();
        place.check(&files);
        assert_eq!(failures.len(), 2, "{range}: {failures:?}");
        assert!(
            failures[1].contains(&format!("the range `{range}`, where bytes 5000-9999 of 10000")),
            "{failures:?}"
        );
        let asked: Vec<_> = server.gets_of(FILE).iter().map(|get| get.range()).collect();
        assert_eq!(asked, [None, Some(5_000), None], "{range}: the next try asks for the whole file");
    }
}

#[test]
fn a_range_longer_than_the_file_is_not_taken() {
    let files = Files::one(10_000);
    let server = Server::spoiling(&files, FILE, |n, seen, stream, files| match n {
        0 => files.cut(FILE, None, 5_000, stream),
        1 => {
            let headers = [("content-range", "bytes 5000-9999/10000".to_owned())];
            reply(stream, "206 Partial Content", &headers, &noise(9, 7_000));
        }
        _ => files.answer(seen, stream),
    });
    Place::new(&server.url()).pull_all(&files);
}

#[test]
fn a_range_nobody_asked_for_is_refused() {
    let files = Files::one(10_000);
    let server =
        Server::spoiling(&files, FILE, |_, _, stream, files| files.send_from(FILE, Some(0), stream, &[]));
    let error = Place::new(&server.url()).pull_fails(&files);
    assert!(matches!(last(&error), Error::Answer { why, .. } if why.contains("HTTP 206")), "{error}");
}

#[test]
fn a_server_that_cannot_satisfy_the_range_is_asked_for_all() {
    let files = Files::one(10_000);
    let server = Server::spoiling(&files, FILE, |n, seen, stream, files| match n {
        0 => files.cut(FILE, None, 5_000, stream),
        1 => reply(stream, "416 Range Not Satisfiable", &[("content-range", "bytes */10000".into())], b""),
        _ => files.answer(seen, stream),
    });
    Place::new(&server.url()).pull_all(&files);
    assert_eq!(server.gets_of(FILE).last().unwrap().range(), None);
}

#[test]
fn a_resumed_request_names_the_version_it_goes_on_from() {
    let files = Files::one(10_000);
    let server = Server::spoiling(&files, FILE, |n, seen, stream, files| {
        let tag = |text: &str| ("etag", text.to_owned());
        match n {
            0 => {
                let length = ("content-length", "10000".to_owned());
                reply(stream, "200 OK", &[tag("\"one\""), length], &files.bytes(FILE)[..5_000]);
            }
            1 => files.send_from(FILE, seen.range(), stream, &[tag("\"two\"")]),
            _ => files.send_from(FILE, None, stream, &[tag("\"two\"")]),
        }
    });
    Place::new(&server.url()).pull_all(&files);
    let gets = server.gets_of(FILE);
    assert_eq!(gets[1].header("if-range"), Some("\"one\""));
    assert_eq!(gets.len(), 3, "bytes of another version are not put behind the first ones");
}

#[test]
fn lengths_that_lie_are_noticed() {
    // What the body's header says, and how many bytes follow.
    for (announced, sent) in [("9999", 9_999), ("10001", 10_001), ("0", 0), ("18446744073709551615", 10_000)]
    {
        let files = Files::one(10_000);
        let server = Server::spoiling(&files, FILE, move |_, _, stream, _| {
            reply(stream, "200 OK", &[("content-length", announced.into())], &noise(7, sent));
        });
        let place = Place::new(&server.url());
        let error = place.pull_fails(&files);
        assert!(matches!(last(&error), Error::Length { wanted: 10_000, .. }), "{announced}: {error}");
        assert_eq!(place.partials(), [0]);
    }
}

#[test]
fn bodies_without_a_length_must_still_fit() {
    for (sent, fits) in [(10_000, true), (9_000, false), (10_001, false), (300_000, false)] {
        let files = Files::one(10_000);
        let server = Server::spoiling(&files, FILE, move |_, seen, stream, files| {
            let mut bytes = files.bytes(FILE).to_vec();
            bytes.resize(sent, 0);
            let bytes = &bytes[seen.range().unwrap_or(0).min(sent)..];
            let mut body = format!("{:x}\r\n", bytes.len()).into_bytes();
            body.extend_from_slice(bytes);
            body.extend_from_slice(b"\r\n0\r\n\r\n");
            match seen.range() {
                Some(_) => reply(stream, "416 Range Not Satisfiable", &[], b""),
                None => reply(stream, "200 OK", &[("transfer-encoding", "chunked".into())], &body),
            }
        });
        let place = Place::new(&server.url());
        if fits {
            place.pull_all(&files);
        } else {
            let error = place.pull_fails(&files);
            assert!(matches!(error, Error::GaveUp { .. }), "{sent}: {error}");
            assert!(place.partials()[0] <= 10_000, "{sent}: more is kept than the file can have");
        }
    }
}

#[test]
fn a_list_and_a_file_that_disagree_are_refused() {
    let other = "ab".repeat(32);
    let lies: [(&str, String, &str); 6] = [
        ("x-linked-size", "9999".into(), "9999 bytes, but 10000 in the list"),
        ("x-linked-size", "-1".into(), "not a number of bytes"),
        ("x-linked-size", "99999999999999999999".into(), "not a number of bytes"),
        ("x-linked-etag", format!("\"{other}\""), "in the list of files"),
        ("x-repo-commit", "../../evil".into(), "commit `../../evil`"),
        ("x-repo-commit", "f".repeat(40), "commit `ffff"),
    ];
    for (header, value, expected) in lies {
        let files = Files::one(10_000);
        let inner = files.clone();
        let server = Server::start(move |seen, stream| match seen.method.as_str() {
            "HEAD" => {
                reply(stream, "200 OK", &[(header, value.clone()), ("content-length", "10000".into())], b"")
            }
            _ => inner.answer(seen, stream),
        });
        let error = Place::new(&server.url()).pull_fails(&files).to_string();
        assert!(error.contains(expected), "{header}: {error}");
        assert_eq!(server.gets_of(FILE).len(), 0);
    }
}

/// A hub whose list tells names only.
fn bare_list(head: &'static [(&'static str, &'static str)]) -> Server {
    Server::start(move |seen, stream| match seen.method.as_str() {
        "HEAD" => {
            let headers: Vec<_> = head.iter().map(|h| (h.0, h.1.to_owned())).collect();
            reply(stream, "200 OK", &headers, b"");
        }
        _ => {
            let list = format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{{\"rfilename\": \"{FILE}\"}}]}}");
            reply(stream, "200 OK", &[], list.as_bytes());
        }
    })
}

#[test]
fn files_that_cannot_be_checked_or_held_are_refused() {
    const HASH: &str = "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"";
    let server = bare_list(&[("content-length", "5"), ("etag", "\"../../../evil\"")]);
    let error = Place::new(&server.url()).pull_fails(&Files::default()).to_string();
    assert!(error.contains("it tells no hash to check the file with"), "{error}");

    let server = bare_list(&[("etag", HASH), ("transfer-encoding", "chunked")]);
    let error = Place::new(&server.url()).pull_fails(&Files::default()).to_string();
    assert!(error.contains("it tells no size to check the file with"), "{error}");

    let server = bare_list(&[("etag", HASH), ("x-linked-size", "9223372036854775807")]);
    let place = Place::new(&server.url());
    let error = place.pull_fails(&Files::default());
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    assert_eq!(server.gets_of(FILE).len(), 0);
}

#[test]
fn a_list_larger_than_the_disk_is_refused_at_once() {
    let huge = |name: &str| format!("{{\"rfilename\": \"{name}\", \"size\": {}}}", u64::MAX / 2 + 9);
    let list = format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{}, {}]}}", huge("a"), huge("b"));
    let server = Server::start(move |_, stream| reply(stream, "200 OK", &[], list.as_bytes()));
    let error = Place::new(&server.url()).pull_fails(&Files::default());
    assert!(matches!(error, Error::NoSpace { need: u64::MAX, .. }), "{error}");
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn error_pages_are_not_files() {
    let cases: [(&str, bool); 10] = [
        ("400 Bad Request", false),
        ("401 Unauthorized", false),
        ("403 Forbidden", false),
        ("404 Not Found", false),
        ("410 Gone", false),
        ("418 Teapot", false),
        ("429 Too Many Requests", true),
        ("500 Internal Server Error", true),
        ("503 Service Unavailable", true),
        ("204 No Content", false),
    ];
    for (status, again) in cases {
        let files = Files::one(1_000);
        let server = Server::spoiling(&files, FILE, move |_, _, stream, _| html(stream, status, &[]));
        let place = Place::new(&server.url());
        let error = place.pull_fails(&files);
        let code: u16 = status[..3].parse().unwrap();
        match last(&error) {
            Error::NotFound { status, .. } => assert!([404, 410].contains(status) && *status == code),
            Error::NoAccess { status, .. } => assert!([401, 403].contains(status) && *status == code),
            Error::Status { status, .. } => assert_eq!(*status, code),
            other => panic!("{status}: {other}"),
        }
        assert_eq!(matches!(error, Error::GaveUp { .. }), again, "{status}");
        assert_eq!(server.gets_of(FILE).len(), if again { 4 } else { 1 }, "{status}");
    }
}

#[test]
fn an_error_page_that_looks_like_success_is_not_a_file() {
    let files = Files::one(1_000);
    let server = Server::spoiling(&files, FILE, |_, _, stream, _| html(stream, "200 OK", &[]));
    let error = Place::new(&server.url()).pull_fails(&files);
    assert!(matches!(last(&error), Error::Length { wanted: 1_000, .. }), "{error}");
}

#[test]
fn the_hubs_own_words_are_passed_on() {
    let server = Server::start(|_, stream| {
        let words = ("x-error-message", "Access to dataset org/name is restricted.".to_owned());
        html(stream, "403 Forbidden", &[words]);
    });
    let error = Place::new(&server.url()).pull_fails(&Files::default()).to_string();
    assert!(error.contains("no access (HTTP 403, Access to dataset org/name is restricted.)"), "{error}");
    assert!(error.contains("HF_TOKEN"), "{error}");

    let server = Server::start(|_, stream| {
        reply(stream, "404 Not Found", &[], b"{\"error\": \"Repository\\u001b[31m not found\"}");
    });
    let error = Place::new(&server.url()).pull_fails(&Files::default()).to_string();
    assert!(error.contains("not found (HTTP 404, Repository[31m not found)"), "{error}");
}

#[test]
fn a_busy_server_is_asked_again() {
    let files = Files::one(1_000);
    let inner = files.clone();
    let count = Mutex::new(0);
    let server = Server::start(move |seen, stream| {
        let mut count = count.lock().unwrap();
        *count += 1;
        match *count % 3 {
            1 => html(stream, "429 Too Many Requests", &[("retry-after", "99999".into())]),
            2 => html(stream, "503 Service Unavailable", &[]),
            _ => inner.answer(seen, stream),
        }
    });
    let place = Place::new(&server.url());
    let mut waits = Vec::new();
    let start = Instant::now();
    place
        .pull_watched(&AtomicBool::new(false), &mut |event| {
            if let Event::Retry { wait, .. } = event {
                waits.push(wait);
            }
        })
        .unwrap();
    place.check(&files);
    // The list, the description and the bytes each fail twice; what the server asks for is capped.
    let (long, short) = (Duration::from_millis(4), Duration::from_millis(2));
    assert_eq!(waits, [long, short, long, short, long, short]);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn wrong_bytes_are_tried_once_more_and_then_refused() {
    for lies in [1, 2] {
        for lfs in [true, false] {
            let files = Files::default().with(FILE, noise(7, 5_000), lfs);
            let server = Server::spoiling(&files, FILE, move |n, _, stream, files| match n < lies {
                true => reply(stream, "200 OK", &[], &noise(8 + n as u64, 5_000)),
                false => files.send_from(FILE, None, stream, &[]),
            });
            let place = Place::new(&server.url());
            if lies == 1 {
                place.pull_all(&files);
            } else {
                let error = place.pull_fails(&files);
                assert!(matches!(&error, Error::Hash { file, .. } if file == FILE), "{error}");
            }
            assert_eq!(server.gets_of(FILE).len(), 2);
            assert_eq!(place.partials(), [0; 0]);
        }
    }
}

#[test]
fn one_flipped_bit_in_a_resumed_file_is_noticed() {
    for seed in 0..20 {
        let files = Files::one(8_000);
        let server = Server::spoiling(&files, FILE, move |n, seen, stream, files| match n {
            0 => {
                let mut noise = Noise::new(seed);
                let mut bytes = files.bytes(FILE).to_vec();
                let cut = 1 + noise.below(7_000);
                bytes[noise.below(cut)] ^= 1 << noise.below(8);
                reply(stream, "200 OK", &[("content-length", "8000".into())], &bytes[..cut]);
            }
            _ => files.answer(seen, stream),
        });
        Place::new(&server.url()).pull_all(&files);
        assert_eq!(server.gets_of(FILE).len(), 3, "cut, the rest, and all of it once more");
    }
}

#[test]
fn encoded_bytes_are_refused() {
    let files = Files::one(1_000);
    let server = Server::spoiling(&files, FILE, |_, _, stream, files| {
        files.send_from(FILE, None, stream, &[("content-encoding", "gzip".into())]);
    });
    let error = Place::new(&server.url()).pull_fails(&files);
    assert!(matches!(last(&error), Error::Answer { why, .. } if why.contains("gzip")), "{error}");
    assert_eq!(server.gets_of(FILE)[0].header("accept-encoding"), Some("identity"));
}

#[test]
fn a_trickle_is_given_up() {
    let files = Files::one(10_000);
    let server = Server::spoiling(&files, FILE, |_, _, stream, files| {
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n";
        let _ = stream.write_all(head);
        for byte in files.bytes(FILE) {
            thread::sleep(Duration::from_millis(20));
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
        }
    });
    let mut place = Place::new(&server.url());
    place.settings.times.tries = 2;
    place.settings.times.progress_bytes = 1_000;
    place.settings.times.slow_window = Duration::from_millis(150);
    let start = Instant::now();
    let error = place.pull_fails(&files);
    assert!(matches!(last(&error), Error::Slow { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn silence_is_given_up() {
    for body in [false, true] {
        let files = Files::one(10_000);
        let server = Server::spoiling(&files, FILE, move |_, _, stream, files| {
            if body {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n");
                let _ = stream.write_all(&files.bytes(FILE)[..100]);
            }
            thread::sleep(Duration::from_millis(900));
        });
        let mut place = Place::new(&server.url());
        place.settings.times.tries = 2;
        place.settings.times.progress_bytes = 1_000;
        place.settings.times.answer = Duration::from_millis(300);
        place.settings.times.idle = Duration::from_millis(300);
        let start = Instant::now();
        let error = place.pull_fails(&files);
        assert!(matches!(last(&error), Error::Network { .. }), "{error}");
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    }
}

#[test]
fn a_port_where_nobody_listens_is_named() {
    let url = Server::start(|_, _| {}).url();
    let error = Place::new(&url).pull_fails(&Files::default());
    assert!(matches!(last(&error), Error::Network { .. }), "{error}");
    assert!(error.to_string().contains(&url) && error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
}

#[test]
fn noise_instead_of_http_is_an_error() {
    for seed in 0..20 {
        let server = Server::start(move |_, stream| {
            let _ = stream.write_all(&noise(seed, 3_000));
        });
        let error = Place::new(&server.url()).pull_fails(&Files::default());
        assert!(matches!(last(&error), Error::Network { .. }), "{error}");
    }
}

#[test]
fn endless_headers_are_an_error() {
    let server = Server::start(move |_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(b"x-more: and more\r\n").is_ok() {}
    });
    let error = Place::new(&server.url()).pull_fails(&Files::default());
    assert!(matches!(last(&error), Error::Network { .. }), "{error}");
}

#[test]
fn a_cancelled_pull_keeps_its_bytes() {
    let files = Files::one(400_000);
    let server = Server::honest(&files);
    let place = Place::new(&server.url());
    let cancel = AtomicBool::new(false);
    let error = place
        .pull_watched(&cancel, &mut |event| {
            if matches!(event, Event::Bytes { done, .. } if done > 0) {
                cancel.store(true, Ordering::Relaxed);
            }
        })
        .unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
    place.check(&files);
    let kept = place.partials();
    assert!(kept.len() == 1 && kept[0] > 0);
    place.pull_all(&files);
    assert_eq!(server.gets_of(FILE)[1].range(), Some(kept[0]));
}

/// One request answered in one of the ways that proxies, mirrors and broken lines have.
fn spoil(how: usize, noise: &mut Noise, seen: &Seen, stream: &mut TcpStream, files: &Files) {
    let total = files.bytes(FILE).len();
    let is_file = seen.is_get_of(FILE);
    match how {
        0 => drop(stream.shutdown(Shutdown::Both)),
        1 => html(stream, "500 Internal Server Error", &[]),
        2 => html(stream, "429 Too Many Requests", &[("retry-after", "1".into())]),
        3 => html(stream, "404 Not Found", &[]),
        4 => html(stream, "200 OK", &[("etag", "\"page\"".into())]),
        5 => reply(stream, "302 Found", &[("location", seen.path.clone())], b""),
        6 if is_file => files.cut(FILE, seen.range(), noise.below(total), stream),
        7 if is_file => files.cut(FILE, None, noise.below(total), stream),
        8 if is_file => files.send_from(FILE, Some(noise.below(total)), stream, &[]),
        9 if is_file => {
            let start = seen.range().unwrap_or(0);
            let mut bytes = files.bytes(FILE)[start..].to_vec();
            let at = noise.below(bytes.len());
            bytes[at] ^= 1 << noise.below(8);
            let range = ("content-range", format!("bytes {start}-{}/{total}", total - 1));
            let status = if start > 0 { "206 Partial Content" } else { "200 OK" };
            reply(stream, status, &[range], &bytes);
        }
        10 if is_file => {
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(&files.bytes(FILE)[..noise.below(total)]);
        }
        11 => {
            let len = noise.below(500);
            let _ = stream.write_all(&(0..len).map(|_| noise.below(256) as u8).collect::<Vec<_>>());
        }
        _ => files.answer(seen, stream),
    }
}

#[test]
fn whatever_a_line_does_the_cache_stays_true() {
    let mut outcomes = [0; 2];
    for seed in 0..150 {
        let files = Files::one(5_000).with("b.txt", noise(seed, 700), false);
        let inner = files.clone();
        let noise = Mutex::new(Noise::new(seed));
        let server = Server::start(move |seen, stream| {
            let mut noise = noise.lock().unwrap();
            // Half of the requests are spoiled.
            let how = noise.below(24);
            spoil(how, &mut noise, seen, stream, &inner);
        });
        let mut place = Place::new(&server.url());
        for _ in 0..3 {
            match place.pull() {
                Ok(pulled) => {
                    assert_eq!(fs::read(pulled.folder.join(FILE)).unwrap(), files.bytes(FILE), "seed {seed}");
                    outcomes[0] += 1;
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    outcomes[1] += 1;
                }
            }
            place.check(&files);
        }
        // What is left of it all does not keep an honest hub from finishing.
        let honest = Server::honest(&files);
        place.settings.endpoint = honest.url();
        place.pull_all(&files);
        assert_eq!(place.partials(), [0; 0], "seed {seed}");
    }
    assert!(outcomes[0] > 50 && outcomes[1] > 50, "both endings were seen often: {outcomes:?}");
}

#[test]
fn bad_settings_are_named_before_any_request() {
    for endpoint in ["", "huggingface.co", "ftp://x", "http://", "https://user@host", "http://a b"] {
        let error = Place::new(endpoint).pull_fails(&Files::default());
        assert!(matches!(error, Error::Setting { name: "endpoint", .. }), "{endpoint}: {error}");
    }
    let error = Place::new("https://user:hidden-word@host").pull_fails(&Files::default()).to_string();
    assert!(error.contains("it carries a user name") && !error.contains("hidden-word"), "{error}");
    let mut place = Place::new("http://127.0.0.1:1");
    place.settings.proxy = Some(hub::Secret::new("nonsense://user:hidden-word@x"));
    let error = place.pull_fails(&Files::default()).to_string();
    assert!(
        error.starts_with("proxy `(hidden)` cannot be used") && !error.contains("hidden-word"),
        "{error}"
    );
}
