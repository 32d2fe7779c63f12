//! The modules of `src/` use each other in one direction: as docs/architecture.md says, and nowhere in
//! a circle.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Which module uses which.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// Modules of the program, which may use all of the library.
const PROGRAM: [&str; 5] = ["main", "lib", "build", "cli", "signals"];

/// Folders in which siblings still use each other in a circle. None may be added.
const CIRCLES: [&str; 2] = ["cli/bench", "dev_redis"];

#[test]
fn modules_use_each_other_as_the_architecture_says() {
    let mut found = Graph::new();
    for (module, uses) in used() {
        if PROGRAM.contains(&module[0].as_str()) {
            continue;
        }
        let others = uses.iter().map(|path| &path[0]).filter(|other| **other != module[0]);
        found.entry(module[0].clone()).or_default().extend(others.cloned());
    }
    found.retain(|_, uses| !uses.is_empty());
    let page = include_str!("../docs/architecture.md");
    let (_, block) = page.split_once("```text layers\n").expect("a block of layers");
    let (block, _) = block.split_once("```").expect("its end");
    let mut written = Graph::new();
    for line in block.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        written.insert(words.next().expect("a module"), words.collect());
    }
    assert_eq!(found, written, "docs/architecture.md (right) differs from the code (left)");
    assert_eq!(circle(&found), None);
}

#[test]
fn siblings_in_a_folder_do_not_use_each_other_in_a_circle() {
    let modules: BTreeSet<Vec<String>> = used().into_keys().collect();
    let mut folders: BTreeMap<String, Graph> = BTreeMap::new();
    for (module, uses) in used() {
        for path in uses {
            // The folder in which both lie, and the sibling of each that leads to it.
            for depth in 1..module.len().min(path.len()) {
                let is_sibling = module[..depth] == path[..depth]
                    && module[depth] != path[depth]
                    && modules.contains(&path[..=depth]);
                if is_sibling {
                    let folder = folders.entry(module[..depth].join("/")).or_default();
                    folder.entry(module[depth].clone()).or_default().insert(path[depth].clone());
                }
            }
        }
    }
    let with_circle = folders.iter().filter(|(_, graph)| circle(graph).is_some());
    let with_circle: Vec<&str> = with_circle.map(|(folder, _)| folder.as_str()).collect();
    assert_eq!(with_circle, CIRCLES);
}

/// For each module, as a path from `src`, the paths that it uses, of this crate. Tests are left out.
fn used() -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    let mut used = BTreeMap::new();
    let mut files = Vec::new();
    list(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut files);
    for file in files {
        let inside =
            file.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).expect("inside");
        let module: Vec<String> = inside
            .with_extension("")
            .components()
            .map(|part| part.as_os_str().to_string_lossy().into_owned())
            .collect();
        if module.last().is_some_and(|name| name == "tests" || name == "model") {
            continue;
        }
        let code = fs::read_to_string(&file).expect("readable");
        let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        used.insert(module.clone(), paths(code, &module));
    }
    used
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            list(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// All paths in some code that begin with `crate` or `super`.
fn paths(code: &str, module: &[String]) -> BTreeSet<Vec<String>> {
    let without_comments: Vec<&str> =
        code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = without_comments.join("\n");
    let mut paths = BTreeSet::new();
    for root in ["crate::", "super::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|char| char.is_alphanumeric() || char == '_' || char == ':') {
                continue;
            }
            let parent = &module[..module.len() - 1];
            let base = if root == "crate::" { &[][..] } else { parent };
            tree(&code[at + root.len()..], base.to_vec(), &mut paths);
        }
    }
    paths.retain(|path| !path.is_empty());
    paths
}

/// The paths of a `use` tree or of a plain path, below `base`. Returns what follows it.
fn tree<'a>(
    mut code: &'a str,
    mut base: Vec<String>,
    paths: &mut BTreeSet<Vec<String>>,
) -> &'a str {
    loop {
        code = code.trim_start();
        if let Some(mut inside) = code.strip_prefix('{') {
            loop {
                inside = inside.trim_start_matches([',', ' ', '\n']);
                if let Some(after) = inside.strip_prefix('}') {
                    return after;
                }
                let rest = tree(inside, base.clone(), paths);
                // Renames, and whatever else is no path.
                inside = rest.trim_start_matches(|char| !matches!(char, ',' | '}'));
                if inside.is_empty() {
                    return inside;
                }
            }
        }
        let end = code.find(|char: char| !char.is_alphanumeric() && char != '_');
        let (word, rest) = code.split_at(end.unwrap_or(code.len()));
        match word {
            "super" => drop(base.pop()),
            "" | "self" => {}
            _ => base.push(word.to_owned()),
        }
        match rest.strip_prefix("::") {
            Some(further) if !word.is_empty() => code = further,
            _ => {
                paths.insert(base);
                return rest;
            }
        }
    }
}

/// Modules that use each other in a circle, if there are any.
fn circle(graph: &Graph) -> Option<Vec<String>> {
    fn walk(graph: &Graph, way: &mut Vec<String>) -> bool {
        let Some(uses) = way.last().and_then(|module| graph.get(module)) else { return false };
        uses.iter().any(|module| {
            let closes = way.contains(module);
            way.push(module.clone());
            closes || walk(graph, way) || way.pop().is_none()
        })
    }
    graph.keys().find_map(|module| {
        let mut way = vec![module.clone()];
        walk(graph, &mut way).then_some(way)
    })
}
