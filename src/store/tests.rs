use super::*;

/// A store in a temporary folder, which is removed when the test ends.
struct Fixture {
    store: Store,
}

impl Fixture {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("roomcast-store-{}-{name}", std::process::id()));
        Self { store: Store::new(folder) }
    }

    /// Reads the records of the kind `cert`; those that start with `ok` are usable.
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
fn records_are_read_newest_first_and_the_newest_two_are_kept() {
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
fn only_the_owner_may_read_files_and_folder() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new("mode");
    fixture.write("ok");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&fixture.path("cert-00000001")), 0o600);
    assert_eq!(mode(fixture.store.folder()), 0o700);
}

#[test]
fn the_previous_record_is_used_if_the_newest_is_damaged() {
    let fixture = Fixture::new("damaged");
    fixture.write("ok 1");
    fixture.write("rotten");
    assert_eq!(fixture.read(), Ok(vec!["ok 1".into()]));
    // The damaged file is not overwritten, and its number is not used again.
    fixture.write("ok 3");
    assert_eq!(fixture.names(), ["cert-00000002", "cert-00000003"]);
}

#[test]
fn an_incomplete_record_is_skipped() {
    let fixture = Fixture::new("killed");
    fixture.write("ok 1");
    fs::write(fixture.path("cert-00000002"), b"ok, but only the firs").expect("written");
    fs::write(fixture.path("cert-00000003"), b"").expect("written");
    assert_eq!(fixture.read(), Ok(vec!["ok 1".into()]));
    fs::remove_file(fixture.path("cert-00000001")).expect("was there");
    assert_eq!(fixture.read(), Ok(vec![]));
}

#[test]
fn reading_only_damaged_records_is_an_error() {
    let fixture = Fixture::new("rotten");
    fixture.write("rotten");
    assert!(fixture.read().is_err_and(|error| error.contains("cert-00000001: damaged")));
}

#[test]
fn an_unreadable_record_or_folder_is_an_error() {
    let fixture = Fixture::new("unreadable");
    fixture.write("ok 1");
    // A folder in place of the file is unreadable for every user, including root.
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
fn a_read_only_folder_is_an_error_for_writes_but_not_for_reads() {
    let store = Store::new("/proc/self/task".into());
    assert!(store.read("cert", |_| Ok(())).expect("readable").is_empty());
    assert!(store.write("cert", b"ok").is_err());
}

#[test]
fn names_ignore_case_and_a_number_in_use_is_skipped() {
    let fixture = Fixture::new("capitals");
    fixture.write("ok 1");
    fs::rename(fixture.path("cert-00000001"), fixture.path("CERT-00000001")).expect("renamed");
    assert_eq!(fixture.read(), Ok(vec!["ok 1".into()]));
    // Another instance may create a record after this one has listed the folder.
    let (path, _) = fixture.store.create("cert", 2).expect("free");
    assert!(path.ends_with("cert-00000002"));
    let (path, _) = fixture.store.create("cert", 2).expect("the next one");
    assert!(path.ends_with("cert-00000003"));
}
