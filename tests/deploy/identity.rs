//! Name, repository and version of the project are the same in every file.

use std::{fs, path::Path};

use crate::files::{read, stage, text, yaml};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");
const LABEL: &str = "org.opencontainers.image.";

/// Path and text of every file that users read or copy.
fn published() -> Vec<(String, String)> {
    let mut found = vec![];
    for path in
        ["README.md", "SECURITY.md", "Dockerfile", "multi.yaml", "docs", "deploy", ".github"]
    {
        collect(Path::new(path), &mut found);
    }
    found
}

fn collect(path: &Path, found: &mut Vec<(String, String)>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Pictures are skipped: they are not UTF-8.
    if let Ok(text) = fs::read_to_string(root.join(path)) {
        found.push((path.to_string_lossy().into_owned(), text));
    }
    let Ok(folder) = fs::read_dir(root.join(path)) else { return };
    for entry in folder.map(|entry| entry.expect("an entry").file_name()) {
        if entry != "node_modules" && entry != "package-lock.json" {
            collect(&path.join(entry), found);
        }
    }
}

/// For each occurrence of `before`: the accepted characters that follow it.
fn following<'a>(
    file: &'a str,
    before: &'a str,
    accepted: fn(char) -> bool,
) -> impl Iterator<Item = &'a str> {
    let end = move |rest: &str| rest.find(|char| !accepted(char)).unwrap_or(rest.len());
    file.split(before).skip(1).map(move |rest| &rest[..end(rest)])
}

#[test]
fn every_file_names_the_same_version() {
    let chart = yaml("deploy/helm/roomcast/Chart.yaml");
    assert_eq!((text(&chart["version"]), text(&chart["appVersion"])), (VERSION, VERSION));
    let pipeline = yaml("deploy/azure-pipelines.yml")["variables"]["version"].take();
    assert!(text(&pipeline).starts_with(&format!("{VERSION}-")));
    assert!(stage("image").last("LABEL").contains(&format!("{LABEL}version=\"{VERSION}\"")));
    let mut images = 0;
    for (path, file) in &published() {
        let is_version = |char: char| char.is_ascii_digit() || char == '.';
        for tag in following(file, "roomcast:", is_version).filter(|tag| tag.contains('.')) {
            assert_eq!(tag.trim_end_matches('.'), VERSION, "{path}");
            images += 1;
        }
    }
    assert!(images > 5, "{images} images were found");
}

#[test]
fn every_file_names_the_same_repository() {
    assert_eq!(env!("CARGO_PKG_HOMEPAGE"), REPOSITORY);
    let chart = yaml("deploy/helm/roomcast/Chart.yaml");
    assert_eq!((text(&chart["home"]), text(&chart["sources"][0])), (REPOSITORY, REPOSITORY));
    let labels = stage("image").last("LABEL").to_owned();
    for label in ["url", "source"] {
        assert!(labels.contains(&format!("{LABEL}{label}=\"{REPOSITORY}\"")), "{label}: {labels}");
    }
    // Every URL of a repository or an image called roomcast must have this owner.
    let (_, owner_and_name) = REPOSITORY.split_once("github.com/").expect("on GitHub");
    let (_, name) = owner_and_name.split_once('/').expect("an owner");
    let is_path = |char: char| char.is_ascii_alphanumeric() || "-_/".contains(char);
    for (path, file) in &published() {
        for host in ["github.com/", "ghcr.io/"] {
            let named = following(file, host, is_path);
            for found in named.filter(|found| found.split('/').nth(1) == Some(name)) {
                assert!(found.starts_with(owner_and_name), "{path}: {host}{found}");
            }
        }
    }
}

#[test]
fn cargo_install_is_offered_only_if_publishing_is_allowed() {
    let command = format!("cargo install {}", env!("CARGO_PKG_NAME"));
    let offered =
        published().iter().any(|(path, file)| path.ends_with(".md") && file.contains(&command));
    let manifest = read("Cargo.toml");
    let refused = manifest.lines().any(|line| line.trim() == "publish = false");
    assert!(!(offered && refused), "README offers `cargo install`, Cargo.toml forbids to publish");
}
