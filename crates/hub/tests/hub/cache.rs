//! What lies in the cache after a pull, and what a pull takes from it.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use hub::{Error, Event, Select};

use crate::server::{COMMIT, FOLDER, Files, Place, Server, git_hash, list, noise, reply};

fn texts() -> Files {
    Files::default()
        .with("README.md", b"# Stories\n".to_vec(), false)
        .with("data/train/part one.txt", noise(1, 3000), true)
        .with("empty.txt", Vec::new(), false)
}

#[test]
fn files_lie_where_huggingface_hub_puts_them() {
    let files = texts();
    let server = Server::honest(&files);
    let place = Place::new(&server.url());
    let mut planned = None;
    let pulled = place
        .pull_watched(&AtomicBool::new(false), &mut |event| {
            if let Event::Planned { files, cached, bytes } = event {
                planned = Some((files, cached, bytes));
            }
        })
        .unwrap();
    place.check(&files);
    assert_eq!(planned, Some((3, 0, Some(3010))));
    assert_eq!(pulled.folder, place.repo().join("snapshots").join(COMMIT));
    assert_eq!(pulled.files, ["README.md", "data/train/part one.txt", "empty.txt"]);

    let target = |file: &str| fs::read_link(pulled.folder.join(file)).unwrap().to_str().unwrap().to_owned();
    assert_eq!(target("README.md"), format!("../../blobs/{}", git_hash(b"# Stories\n")));
    let etag = files.etag("data/train/part one.txt");
    assert_eq!(target("data/train/part one.txt"), format!("../../../../blobs/{etag}"));
    assert_eq!(fs::read_to_string(place.repo().join("refs/main")).unwrap(), COMMIT);
    let locks = list(&place.settings.cache.join(".locks").join(FOLDER));
    assert!(locks.iter().any(|lock| lock.0 == format!("{etag}.lock")));
    assert_eq!(place.partials(), [0; 0]);
}

#[test]
fn a_second_pull_asks_only_for_the_list() {
    let files = texts();
    let server = Server::honest(&files);
    let place = Place::new(&server.url());
    place.pull_all(&files);
    let before = server.seen().len();
    place.pull_all(&files);
    assert_eq!(server.seen().len(), before + 1);
}

#[test]
fn blobs_of_another_program_are_used() {
    let files = texts();
    let server = Server::honest(&files);
    let place = Place::new(&server.url());
    let name = "data/train/part one.txt";
    fs::create_dir_all(place.repo().join("blobs")).unwrap();
    fs::write(place.blob(&files.etag(name)), files.bytes(name)).unwrap();
    place.pull_all(&files);
    assert!(server.seen().iter().all(|seen| !seen.is_get_of("part%20one.txt")));
}

#[test]
fn a_cut_blob_of_another_program_is_replaced() {
    let files = texts();
    let server = Server::honest(&files);
    let place = Place::new(&server.url());
    let blob = place.blob(&files.etag("README.md"));
    fs::create_dir_all(blob.parent().unwrap()).unwrap();
    fs::write(blob, b"# St").unwrap();
    place.pull_all(&files);
}

#[test]
fn offline_uses_the_cache_and_names_what_it_lacks() {
    let files = texts();
    let server = Server::honest(&files);
    let mut place = Place::new(&server.url());
    place.settings.offline = true;
    let error = place.pull_fails(&files).to_string();
    assert!(error.contains("lacks revision `main` of data set `org/name`"), "{error}");

    place.settings.offline = false;
    place.request.select = Select::Patterns(vec!["*.md".into()]);
    let online = place.pull().unwrap();
    drop(server);

    place.settings.offline = true;
    assert_eq!(place.pull().unwrap(), online);
    place.request.revision = COMMIT.into();
    assert_eq!(place.pull().unwrap(), online);
    place.request.select = Select::Names(vec!["README.md".into(), "empty.txt".into()]);
    let error = place.pull().unwrap_err();
    assert!(matches!(&error, Error::Offline { missing, .. } if missing == "`empty.txt`"), "{error}");
    place.request.select = Select::Names(vec!["../../refs/main".into()]);
    assert!(matches!(place.pull(), Err(Error::FileName { .. })));
}

#[test]
fn named_sets_bring_their_validation_shard() {
    let shards = ["shard_00000.parquet", "shard_00001.parquet", "shard_00002.parquet", "shard_06542.parquet"];
    let files = shards.iter().fold(Files::default(), |f, name| f.with(name, noise(3, 500), true));
    let server = Server::honest(&files);
    let mut place = Place::new(&server.url());
    place.request = hub::catalog::request("climbmix", Some(2)).unwrap();
    let pulled = place.pull().unwrap();
    assert_eq!(pulled.files, ["shard_00000.parquet", "shard_00001.parquet", "shard_06542.parquet"]);
    assert_eq!(pulled.validation.as_deref(), Some("shard_06542.parquet"));
    assert!(
        pulled.folder.starts_with(place.settings.cache.join("datasets--karpathy--climbmix-400b-shuffle"))
    );
    assert_eq!(list(&pulled.folder).len(), 3);
}

#[test]
fn what_is_not_there_is_named() {
    let files = texts();
    let server = Server::honest(&files);
    let mut place = Place::new(&server.url());
    place.request.select = Select::Names(vec!["README.md".into(), "other.txt".into()]);
    let error = place.pull_fails(&files).to_string();
    assert_eq!(
        error,
        "data set `org/name` holds no file like `other.txt`; it has `README.md`, `data/train/part one.txt`, `empty.txt`"
    );
    place.request.select = Select::Patterns(vec!["*.parquet".into()]);
    assert!(matches!(place.pull_fails(&files), Error::NoFiles { .. }));
}

#[test]
fn names_that_lead_outside_are_refused() {
    let long = "x/".repeat(600) + "y";
    for name in
        ["../evil", "a/../../../evil", "/tmp/evil", "..", "a\\..\\evil", "C:/evil", "a\0b", "a//b", "", &long]
    {
        let files = Files::default().with(name, b"x".to_vec(), false);
        let server = Server::honest(&files);
        let place = Place::new(&server.url());
        let error = place.pull_fails(&files);
        assert!(matches!(error, Error::FileName { .. }), "{name:?}: {error}");
        assert_eq!(list(place.root()), [], "{name:?}");
    }
}

#[test]
fn hostile_lists_are_refused() {
    let sha = |sha: &str| format!("{{\"sha\": \"{sha}\", \"siblings\": []}}");
    let lists = [
        "<!doctype html><p>Log in to the hotel's network".to_owned(),
        "[".repeat(100_000),
        "{}".into(),
        String::new(),
        "{\"sha\": 7}".into(),
        "{\"sha\": \"../../../../evil\", \"siblings\": []}".into(),
        sha(&"g".repeat(40)),
        sha(&COMMIT.to_uppercase()),
        format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{{\"rfilename\": \"x\", \"size\": -1}}]}}"),
        format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{{\"rfilename\": \"x\", \"size\": 1e400}}]}}"),
    ];
    for list in lists {
        let text = list.clone();
        let server = Server::start(move |_, stream| reply(stream, "200 OK", &[], text.as_bytes()));
        let error = Place::new(&server.url()).pull_fails(&Files::default());
        let root = if let Error::GaveUp { last, .. } = &error { last } else { &error };
        assert!(matches!(root, Error::Answer { .. }), "{}: {error}", &list[..list.len().min(60)]);
    }
}

#[test]
fn an_endless_list_is_cut_off() {
    let server = Server::start(move |_, stream| {
        use std::io::Write;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
        let blank = vec![b' '; 1 << 20];
        while stream.write_all(&blank).is_ok() {}
    });
    let error = Place::new(&server.url()).pull_fails(&Files::default()).to_string();
    assert!(error.contains("a list of more than 67108864 bytes"), "{error}");
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let files = texts();
    let server = Server::honest(&files);
    let mut place = Place::new(&server.url());
    place.settings.cache = place.root().join("file");
    fs::write(&place.settings.cache, b"not a folder").unwrap();
    let error = place.pull().unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if path.starts_with(place.root())), "{error}");
    assert!(Path::new(&place.settings.cache).is_file());
}
