//! THIRD-PARTY-LICENCES.txt holds the licences of everything that is built into the program.
//!
//! It is made from `cargo metadata` and the licence files inside the crates. After a change of the
//! dependencies or of assets/vendor, `WRITE_LICENCES=1 cargo test --test licences -- --ignored`
//! writes it anew. (cargo-about does the same, but takes minutes to build in each run of CI, and
//! makes up a text with an empty copyright line where a crate holds none.)

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/THIRD-PARTY-LICENCES.txt");
const HEAD: &str = "\
Third-party software in Roomcast
================================

Roomcast itself is under the MIT licence, see LICENSE. The program also contains the libraries below,
each under its own licence. Where a library offers several, the MIT licence is taken.

It further contains the standard library of Rust (MIT or Apache-2.0, https://www.rust-lang.org). The
static programs for Linux, which the image and the archives hold, contain the GNU C Library
(LGPL-2.1-or-later, https://www.gnu.org/software/libc/): Roomcast's source, with the file Dockerfile,
is what it takes to link them with another version of it.
";
const RULE: &str =
    "\n--------------------------------------------------------------------------------\n";
/// The platforms for which .github/workflows/release.yml builds.
const PLATFORMS: [&str; 5] = [
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "x86_64-apple-darwin",
    "aarch64-apple-darwin",
    "x86_64-pc-windows-msvc",
];

/// A library of the program, and the texts that come with it.
struct Library {
    title: String,
    expression: String,
    repository: String,
    texts: Vec<String>,
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn metadata(arguments: &[&str]) -> Value {
    let cargo = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version=1"])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(cargo.status.success(), "{}", String::from_utf8_lossy(&cargo.stderr));
    serde_json::from_slice(&cargo.stdout).expect("JSON")
}

/// The packages that the program is built from, without those of tests alone.
fn packages(metadata: &Value) -> Vec<&Value> {
    let by_id = |list: &'static str, from: &'static str| {
        let values = if from.is_empty() { &metadata[list] } else { &metadata[from][list] };
        self::list(values)
            .iter()
            .map(|value| (text(&value["id"]), value))
            .collect::<BTreeMap<_, _>>()
    };
    let (nodes, packages) = (by_id("nodes", "resolve"), by_id("packages", ""));
    let root = text(&metadata["resolve"]["root"]);
    let (mut found, mut next) = (BTreeSet::new(), vec![root]);
    while let Some(id) = next.pop() {
        if found.insert(id) {
            let built = |dependency: &&Value| {
                list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"] != "dev")
            };
            let dependencies = list(&nodes[id]["deps"]).iter().filter(built);
            next.extend(dependencies.map(|dependency| text(&dependency["pkg"])));
        }
    }
    found.remove(root);
    found.into_iter().map(|id| packages[id]).collect()
}

fn title(package: &Value) -> String {
    format!("{} {}", text(&package["name"]), text(&package["version"]))
}

/// The licence files of a package, by their names.
fn files(package: &Value) -> BTreeMap<String, String> {
    let folder = Path::new(text(&package["manifest_path"])).parent().expect("a folder");
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("the package's source") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        let is_licence = ["LICENSE", "LICENCE", "UNLICENSE", "COPYING", "COPYRIGHT", "NOTICE"]
            .iter()
            .any(|start| name.starts_with(start));
        if is_licence && path.is_file() {
            let text = fs::read_to_string(&path).expect("text");
            let lines: Vec<_> = text.lines().map(str::trim_end).collect();
            files.insert(name, lines.join("\n").trim_matches('\n').to_owned());
        }
    }
    files
}

/// Whether the licence may be MIT and nothing else.
fn offers_mit(expression: &str) -> bool {
    !expression.contains(['(', ')'])
        && !expression.contains(" AND ")
        && expression.replace('/', " OR ").split(" OR ").any(|name| name.trim() == "MIT")
}

fn library(package: &Value, packages: &[&Value]) -> Library {
    let expression = text(&package["license"]).to_owned();
    let mut files = files(package);
    if files.is_empty() {
        // Some packages of a repository leave the licence to another one.
        let sibling = packages.iter().filter(|other| {
            !package["repository"].is_null() && other["repository"] == package["repository"]
        });
        files = sibling
            .map(|other| self::files(other))
            .find(|files| !files.is_empty())
            .unwrap_or_default();
    }
    if offers_mit(&expression) && files.keys().any(|name| name.contains("MIT")) {
        files.retain(|name, _| name.contains("MIT"));
    }
    let texts = if !files.is_empty() {
        files.into_values().collect()
    } else {
        assert!(offers_mit(&expression), "{}: no text of {expression}", title(package));
        let authors: Vec<_> = list(&package["authors"]).iter().map(text).collect();
        vec![mit(&authors.join(", "))]
    };
    Library {
        title: title(package),
        expression,
        repository: text(&package["repository"]).into(),
        texts,
    }
}

/// The licence's wording, as in LICENSE, for a package that holds no text of its own.
fn mit(authors: &str) -> String {
    let ours =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/LICENSE")).expect("LICENSE");
    let (_, wording) = ours.split_once("\nPermission is").expect("the wording");
    let by = if authors.is_empty() { String::new() } else { format!("\nIts authors: {authors}\n") };
    format!(
        "MIT License (the package holds no text of it)\n{by}\nPermission is{}",
        wording.trim_end()
    )
}

/// The libraries of the page, with the texts beside them.
fn page() -> Vec<Library> {
    let vendor = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/vendor");
    let read = |name: &str| fs::read_to_string(vendor.join(name)).expect("a vendored file");
    let vendored: BTreeMap<String, Value> =
        serde_json::from_str(&read("VENDORED.json")).expect("JSON");
    let licences = vendored.iter().filter(|(name, _)| name.starts_with("licences/"));
    let library = |(name, of): (&String, &Value)| Library {
        title: format!("{} {}", text(&of["package"]), text(&of["version"])),
        expression: text(&of["licence"]).to_owned(),
        repository: format!("https://www.npmjs.com/package/{}", text(&of["package"])),
        texts: vec![read(name).trim_matches('\n').to_owned()],
    };
    licences.map(library).collect()
}

/// The libraries that share a text stand above it.
fn render(libraries: &[Library]) -> String {
    let mut by_text: BTreeMap<String, (&str, Vec<String>)> = BTreeMap::new();
    for library in libraries {
        for text in &library.texts {
            let words: Vec<_> = text.split_whitespace().collect();
            let (_, names) = by_text.entry(words.join(" ")).or_insert((text, vec![]));
            names
                .push(format!("{} ({}) {}", library.title, library.expression, library.repository));
        }
    }
    let mut sections: Vec<_> = by_text.into_values().collect();
    sections.iter_mut().for_each(|(_, names)| names.sort());
    sections.sort_by(|(_, one), (_, other)| one.cmp(other));
    let mut file = HEAD.to_owned();
    for (text, names) in sections {
        file += &format!("{RULE}{}\n\n{text}\n", names.join("\n"));
    }
    file
}

#[test]
#[ignore = "needs the packages of all platforms, which cargo fetches: tests/run"]
fn the_file_is_what_the_packages_say() {
    let filters = PLATFORMS.map(|platform| format!("--filter-platform={platform}"));
    let metadata = metadata(&filters.each_ref().map(String::as_str));
    let packages = packages(&metadata);
    let crates = packages.iter().map(|package| library(package, &packages));
    let libraries: Vec<_> = crates.chain(page()).collect();
    let expected = render(&libraries);
    if env::var_os("WRITE_LICENCES").is_some() {
        fs::write(FILE, &expected).expect("the file is written");
    }
    let found = fs::read_to_string(FILE).unwrap_or_default();
    let first = expected.lines().zip(found.lines()).find(|(expected, found)| expected != found);
    assert!(
        found == expected,
        "THIRD-PARTY-LICENCES.txt is stale, from {first:?} on; \
         WRITE_LICENCES=1 cargo test --test licences -- --ignored writes it"
    );
}

#[test]
fn the_file_names_every_dependency_and_nothing_else() {
    let rustc = Command::new("rustc").arg("-vV").output().expect("rustc runs").stdout;
    let rustc = String::from_utf8(rustc).expect("UTF-8");
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host");
    let metadata = metadata(&["--offline", "--filter-platform", host]);
    let file = fs::read_to_string(FILE).expect("the file");
    for package in packages(&metadata) {
        let title = format!("\n{} (", title(package));
        assert!(file.contains(&title), "{title} is missing; see tests/licences.rs");
    }
    let lock = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).expect("it");
    let page: BTreeSet<_> = page().into_iter().map(|library| library.title).collect();
    for line in file
        .split(RULE)
        .skip(1)
        .flat_map(|section| section.lines().take_while(|line| !line.is_empty()))
    {
        let (title, _) = line.split_once(" (").expect("a library");
        let (name, version) = title.split_once(' ').expect("a version");
        let entry = format!("name = \"{name}\"\nversion = \"{version}\"\n");
        assert!(page.contains(title) || lock.contains(&entry), "{title} is not used any more");
    }
}

#[test]
fn the_program_prints_them() {
    let program = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_roomcast"));
        command.arg("licences");
        command
    };
    let output = program().output().expect("it runs");
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success());
    assert!(printed.starts_with("MIT License\n"));
    assert!(printed.ends_with(&fs::read_to_string(FILE).expect("the file")));
    // As `roomcast licences | head` leaves it.
    let mut unread = program().stdout(Stdio::piped()).spawn().expect("it runs");
    drop(unread.stdout.take());
    assert!(unread.wait().expect("it ends").success());
}
