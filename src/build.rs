//! Embeds the page into the binary, compressed at build time so that serving it needs no CPU, and names
//! the build.

use std::{
    env, fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    memory_serve::load_directory("./assets");
    let mut files = vec![PathBuf::from("Cargo.lock")];
    list(Path::new("src"), &mut files)?;
    list(Path::new("assets"), &mut files)?;
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.hash(&mut hasher);
        fs::read(&file)?.hash(&mut hasher);
    }
    // Builds of the same sources have the same name.
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let sources = hasher.finish() >> 32;
    println!("cargo::rustc-env=ROOMCAST_BUILD={version}+{sources:08x}");
    ["Cargo.lock", "src", "assets"]
        .iter()
        .for_each(|path| println!("cargo::rerun-if-changed={path}"));
    Ok(())
}

/// Adds all files of a folder and of the folders in it.
fn list(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
