//! The files of the project, and the sections and tables of the pages of its documentation.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The text of a file of the project.
pub(crate) fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text of the page `.github/docs/NAME.md`.
pub(crate) fn page(name: &str) -> String {
    read(&format!(".github/docs/{name}.md"))
}

/// The paths of all pages of the documentation, in every language.
pub(crate) fn pages() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = Vec::new();
    for folder in ["", ".github/", ".github/docs/", ".github/docs/ko/", ".aws/"] {
        let entries = fs::read_dir(root.join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
        let paths = entries.map(|entry| entry.expect("an entry").path());
        for path in paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name in UTF-8");
            pages.push(format!("{folder}{name}"));
        }
    }
    assert!(pages.len() > 10, "{pages:?}");
    pages
}

/// The text under a heading of the second level in `page`, up to the next one. With `# ` in front,
/// `heading` is the title of the page.
pub(crate) fn section(page: &str, heading: &str) -> String {
    let section = page.split("\n## ").find_map(|section| section.strip_prefix(heading)?.strip_prefix('\n'));
    section.unwrap_or_else(|| panic!("there is no section {heading:?}")).to_owned()
}

/// The cells of the table rows in `section` that have code in them.
pub(crate) fn rows(section: &str) -> Vec<Vec<String>> {
    let rows = section.lines().filter(|line| line.starts_with('|') && line.contains('`'));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// The texts between backquotes.
pub(crate) fn code(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Method and path of the routes in the table of `section`, without the query.
pub(crate) fn documented_routes(section: &str) -> BTreeSet<String> {
    let rows = rows(section);
    let routes = rows.iter().filter_map(|cells| code(&cells[0]).first()?.split('?').next());
    routes.filter(|route| route.contains(" /")).map(ToOwned::to_owned).collect()
}
