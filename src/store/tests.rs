use super::*;

/// A store in a folder of its own, with what a test's records say.
struct Fixture {
    store: Store,
}

impl Fixture {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("roomcast-store-{}-{name}", std::process::id()));
        Self { store: Store::new(folder) }
    }

    /// Usable is what begins with `ok`.
    fn read(&self) -> Result<Vec<String>, String> {
        let parse = |content: &[u8]| {
            let text = String::from_utf8_lossy(content).into_owned();
            ensure!(text.starts_with("ok"), "damaged");
            Ok(text)
        };
        self.store.read("cert", parse).map_err(|error| format!("{error:#}"))
    }

    fn write(&self, content: &str) {
        self.store.write("cert", content.as_bytes()).expect("written");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.store.folder.join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.store.folder).expect("readable");
        let name = |entry: io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
        let mut names: Vec<_> =
            entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.store.folder);
    }
}

#[test]
fn the_newest_comes_first_and_two_are_kept() {
    let fixture = Fixture::new("newest");
    assert_eq!(fixture.read(), Ok(vec![]));
    for content in ["ok 1", "ok 2", "ok 3"] {
        fixture.write(content);
    }
    fixture.store.write("account", b"other").expect("written");
    assert_eq!(fixture.read(), Ok(vec!["ok 3".into(), "ok 2".into()]));
    assert_eq!(fixture.names(), ["account-00000001", "cert-00000002", "cert-00000003"]);
}

#[cfg(unix)]
#[test]
fn nobody_else_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new("mode");
    fixture.write("ok");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&fixture.path("cert-00000001")), 0o600);
    assert_eq!(mode(fixture.store.folder()), 0o700);
}

#[test]
fn a_damaged_newest_record_gives_way_to_the_one_before() {
    let fixture = Fixture::new("damaged");
    fixture.write("ok 1");
    fixture.write("rotten");
    assert_eq!(fixture.read(), Ok(vec!["ok 1".into()]));
    // Nothing is overwritten, and the number of a damaged file is not used again.
    fixture.write("ok 3");
    assert_eq!(fixture.names(), ["cert-00000002", "cert-00000003"]);
}

#[test]
fn a_record_whose_writer_was_killed_is_none() {
    let fixture = Fixture::new("killed");
    fixture.write("ok 1");
    fs::write(fixture.path("cert-00000002"), b"ok, but only the firs").expect("written");
    fs::write(fixture.path("cert-00000003"), b"").expect("written");
    assert_eq!(fixture.read(), Ok(vec!["ok 1".into()]));
    fs::remove_file(fixture.path("cert-00000001")).expect("was there");
    assert_eq!(fixture.read(), Ok(vec![]));
}

#[test]
fn damaged_records_alone_are_an_error_and_not_nothing() {
    let fixture = Fixture::new("rotten");
    fixture.write("rotten");
    assert!(fixture.read().is_err_and(|error| error.contains("cert-00000001: damaged")));
}

#[test]
fn what_cannot_be_read_is_an_error_and_not_nothing() {
    let fixture = Fixture::new("unreadable");
    fixture.write("ok 1");
    // A folder in a file's place cannot be read by anybody, not even by root.
    fs::create_dir(fixture.path("cert-00000002")).expect("made");
    assert_eq!(fixture.read(), Ok(vec!["ok 1".into()]));
    fs::remove_file(fixture.path("cert-00000001")).expect("was there");
    assert!(fixture.read().is_err());
    assert!(fs::remove_dir(fixture.path("cert-00000002")).is_ok());
    assert_eq!(fixture.read(), Ok(vec![]));

    let blocked = Fixture { store: Store::new(fixture.path("file").join("store")) };
    fs::write(fixture.path("file"), b"").expect("written");
    assert!(blocked.read().is_err_and(|error| error.contains("cannot make")));
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_takes_nothing_is_an_error_for_writers_alone() {
    let store = Store::new("/proc/self/task".into());
    assert!(store.read("cert", |_| Ok(())).expect("readable").is_empty());
    assert!(store.write("cert", b"ok").is_err());
}

#[test]
fn names_may_come_back_in_capitals_and_numbers_be_taken() {
    let fixture = Fixture::new("capitals");
    fixture.write("ok 1");
    fs::rename(fixture.path("cert-00000001"), fixture.path("CERT-00000001")).expect("renamed");
    assert_eq!(fixture.read(), Ok(vec!["ok 1".into()]));
    // As if another instance wrote between our look and our write.
    let (path, _) = fixture.store.create("cert", 2).expect("free");
    assert!(path.ends_with("cert-00000002"));
    let (path, _) = fixture.store.create("cert", 2).expect("the next one");
    assert!(path.ends_with("cert-00000003"));
}
