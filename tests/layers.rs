//! The layers that `src/lib.rs` describes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::pages::read;

/// The code of a module, without comments and unit tests, with the paths of its files.
fn sources(module: &str) -> Vec<(String, String)> {
    fn collect(path: &Path, found: &mut Vec<(String, String)>) {
        if path.is_dir() {
            fs::read_dir(path).expect("a folder").for_each(|entry| collect(&entry.expect("an entry").path(), found));
        } else if path.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(path).expect("a source file");
            let code = source.split("#[cfg(test)]\nmod tests").next().expect("a beginning");
            let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            found.push((path.display().to_string(), code.join("\n")));
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    collect(&root.join(format!("{module}.rs")), &mut found);
    collect(&root.join(module), &mut found);
    // Fuzz targets may use everything.
    found.retain(|(path, _)| !path.ends_with("/fuzz.rs"));
    found
}

/// The modules in the table of `src/lib.rs`, from the top.
fn layers() -> Vec<String> {
    let map = read("src/lib.rs");
    let rows = map.lines().filter_map(|line| line.strip_prefix("//! | [`"));
    rows.flat_map(|row| row.split(" | ").next().expect("a cell").split("`], [`"))
        .map(|module| module.trim_end_matches("`]").to_owned())
        .collect()
}

/// The modules of this crate that `source` names after `crate::`.
fn imports(source: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let first = |path: &str| path.trim().split(|c| !is_name(c)).next().unwrap_or_default().to_owned();
    source
        .split("crate::")
        .skip(1)
        .flat_map(|rest| match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().expect("a list").split(',').map(first).collect(),
            None => vec![first(rest)],
        })
        .filter(|module| !module.is_empty())
        .collect()
}

#[test]
fn the_map_lists_every_module() {
    let declared: BTreeSet<String> = read("src/lib.rs")
        .lines()
        .filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'))
        .filter(|module| *module != "fuzz")
        .map(str::to_owned)
        .collect();
    assert_eq!(layers().into_iter().collect::<BTreeSet<_>>(), declared);
}

#[test]
fn a_module_imports_only_from_modules_below_it() {
    let layers = layers();
    let mut links = 0;
    for (row, module) in layers.iter().enumerate() {
        for (path, source) in sources(module) {
            let below = &layers[row..];
            let above: Vec<String> = imports(&source).into_iter().filter(|name| !below.contains(name)).collect();
            assert!(above.is_empty(), "{path} imports {above:?}, which is not below {module} in src/lib.rs");
            links += imports(&source).len();
        }
    }
    assert!(links > 100, "only {links} imports were found");
}

#[test]
fn only_one_module_names_what_belongs_to_it() {
    let rows = [
        ("aws_sdk_dynamodb", "history"),
        ("env::var", "config"),
        ("aws_lambda_events", "event"),
        ("raw_path", "event"),
        ("chat/completions", "openai"),
        ("telemetry::write", "app"),
    ];
    for (name, owner) in rows {
        let naming = layers().into_iter().filter(|module| sources(module).iter().any(|(_, code)| code.contains(name)));
        assert_eq!(naming.collect::<Vec<_>>(), [owner], "{name}");
    }
}
