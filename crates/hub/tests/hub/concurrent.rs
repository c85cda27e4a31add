//! Several pulls into one cache at the same time.

use std::fs::{self, File};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use hub::{Error, Event};

use crate::server::{FOLDER, Files, Place, Server, noise};

const FILE: &str = "data.bin";

#[test]
fn two_pulls_fetch_a_file_once() {
    let files = Files::one(50_000);
    let server = Server::spoiling(&files, FILE, |_, seen, stream, files| {
        thread::sleep(Duration::from_millis(150));
        files.answer(seen, stream);
    });
    let place = Place::new(&server.url());
    thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| place.pull())).collect();
        for pull in pulls {
            assert_eq!(fs::read(pull.join().unwrap().unwrap().folder.join(FILE)).unwrap(), files.bytes(FILE));
        }
    });
    place.check(&files);
    assert_eq!(server.gets_of(FILE).len(), 1);
    assert_eq!(place.partials(), [0; 0]);
}

#[test]
fn many_pulls_over_bad_lines_leave_one_good_cache() {
    let files =
        (0..6).fold(Files::default(), |f, n| f.with(&format!("{n}/data.bin"), noise(n, 3_000), n % 2 == 0));
    let server = Server::spoiling(&files, FILE, |n, seen, stream, files| {
        let name = format!("{}/data.bin", seen.path.rsplit('/').nth(1).unwrap());
        match n % 4 {
            0 => files.cut(&name, seen.range(), 1_000, stream),
            1 => drop(stream.shutdown(std::net::Shutdown::Both)),
            _ => files.answer(seen, stream),
        }
    });
    let mut place = Place::new(&server.url());
    place.settings.times.tries = 30;
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| place.pull_all(&files));
        }
    });
    place.check(&files);
    assert_eq!(place.partials(), [0; 0]);
}

#[test]
fn a_lock_that_is_never_given_back_is_named() {
    let files = Files::one(100);
    let server = Server::honest(&files);
    let mut place = Place::new(&server.url());
    place.settings.times.lock = Duration::from_millis(120);
    let locks = place.settings.cache.join(".locks").join(FOLDER);
    fs::create_dir_all(&locks).unwrap();
    let path = locks.join(format!("{}.lock", files.etag(FILE)));
    let held = File::create(&path).unwrap();
    held.lock().unwrap();

    let mut waiting = 0;
    let error = place
        .pull_watched(&AtomicBool::new(false), &mut |event| {
            waiting += usize::from(matches!(event, Event::Waiting { lock } if lock == path));
        })
        .unwrap_err();
    assert!(matches!(&error, Error::Busy { lock, .. } if *lock == path), "{error}");
    assert_eq!(waiting, 1);
    place.check(&files);

    // A lock file that nobody holds, as a killed process leaves it, is no obstacle.
    drop(held);
    place.pull_all(&files);
}
