//! `ASSETS=dir`: the server serves the files inside the folder, and no others.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use crate::support::{TestServer, request};

/// A temporary folder for one test, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let name = format!("roomcast-assets-{test}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    fn write(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(&path, format!("this is {name}")).expect("written");
        path
    }

    fn link(&self, name: &str, to: impl AsRef<Path>) {
        symlink(to, self.0.join(name)).expect("linked");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn a_folder_serves_its_files_but_no_hidden_ones_and_none_outside_it() {
    let folder = Folder::new("inside");
    for name in ["index.html", "a.b/c d.txt", "sub/index.html", "é.txt", "..data.txt"] {
        folder.write(&format!("page/{name}"));
    }
    for name in [".env", ".git/config", "sub/.htpasswd", "secret/.x", "empty/.keep"] {
        folder.write(&format!("page/{name}"));
    }
    let secret = folder.write("secret.txt");
    folder.write("outside/index.html");
    // Symbolic links that stay inside the folder, as Kubernetes mounts a ConfigMap.
    folder.write("page/..2026_11_26/mounted.txt");
    folder.link("page/..data", "..2026_11_26");
    folder.link("page/mounted.txt", "..data/mounted.txt");
    folder.link("page/out.txt", &secret);
    folder.link("page/out", "../outside");
    folder.link("page/dangling", "/nowhere");
    folder.link("page/empty/index.html", "../../secret.txt");
    // The folder itself may be a symbolic link that a deployment switches to a new version.
    folder.link("current", "page");
    let site = TestServer::start_with(|settings| {
        settings.assets = Some(folder.0.join("current").to_string_lossy().into());
    })
    .await;
    for (path, name) in [
        ("/", "index.html"),
        ("/index.html", "index.html"),
        ("/a.b/c%20d.txt", "a.b/c d.txt"),
        ("/%61.b%2Fc%20d.txt", "a.b/c d.txt"),
        ("//sub/", "sub/index.html"),
        ("/%C3%A9.txt?a=.b", "é.txt"),
        ("/mounted.txt", "..2026_11_26/mounted.txt"),
    ] {
        let (status, body) = request(site.addr, "GET", path, "").await;
        let expected = format!("this is page/{name}");
        assert_eq!((status, &body[..]), (200, expected.as_bytes()), "{path}");
    }
    assert_eq!(request(site.addr, "GET", "/sub", "").await.0, 307, "redirected to its page");
    for path in [
        "/.env",
        "/%2eenv",
        "/%2Eenv",
        "/./.env",
        "/.git/config",
        "/%2egit/config",
        "/%2egit%2fconfig",
        "/sub/.htpasswd",
        "/sub%2f.htpasswd",
        "/sub/%2e%68tpasswd",
        "/secret/.x",
        "/..data/mounted.txt",
        "/..data.txt",
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/sub/..%2f..%2fsecret.txt",
        "/%2fetc/passwd",
        "/out.txt",
        "/out",
        "/out/",
        "/out/index.html",
        "/empty/",
        "/empty",
        "/empty/index.html",
        "/dangling",
        "/nothing",
        "/%ff",
        "/index.html%00",
        "/index.html/",
    ] {
        let (status, body) = request(site.addr, "GET", path, "").await;
        assert_eq!(status, 404, "{path}: {body:?}");
        assert_eq!(request(site.addr, "HEAD", path, "").await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn a_file_that_does_not_open_is_answered_503_and_holds_up_no_other() {
    let folder = Folder::new("pipe");
    folder.write("index.html");
    // Opening a pipe for reading waits for a writer, as opening a file of a dead share waits.
    let pipe = folder.0.join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    let site = TestServer::start_with(|settings| {
        settings.assets = Some(folder.0.to_string_lossy().into());
    })
    .await;
    let (hanging, page) =
        tokio::join!(request(site.addr, "GET", "/pipe", ""), request(site.addr, "GET", "/", ""));
    // The thread that waits goes on, and the test can end.
    fs::OpenOptions::new().read(true).write(true).open(&pipe).expect("a writer");
    assert_eq!((hanging.0, page.0), (503, 200));
    assert!(String::from_utf8_lossy(&hanging.1).contains("ASSETS"));
}
