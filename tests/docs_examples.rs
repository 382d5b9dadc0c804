//! The pages of the documentation: their examples with curl answer as shown, their links
//! have targets, and README agrees with the pages behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};

use crate::support::client::sha256;
use crate::support::client::{say, send, stack};
use crate::support::in_process::event;
use crate::support::pages;

/// The addresses that stand for the local stack.
const ADDRESSES: [&str; 2] = ["http://127.0.0.1:8000", "https://abc123.execute-api.us-east-1.amazonaws.com"];

/// A README: the headings of the sections that the tests read, and the page with its full guide.
struct Readme {
    path: &'static str,
    api: &'static str,
    settings: &'static str,
    speed: &'static str,
    deployment: &'static str,
    guide: &'static str,
}

const READMES: [Readme; 2] = [
    Readme {
        path: "README.md",
        api: "The API",
        settings: "Ten settings that people change",
        speed: "How fast",
        deployment: "Deploy it in ten minutes",
        guide: "deploy",
    },
    Readme {
        path: ".github/README.ko.md",
        api: "API",
        settings: "자주 바꾸는 설정 열 가지",
        speed: "속도",
        deployment: "10분 배포",
        guide: "ko/deploy",
    },
];

/// What differs from run to run: the ids, times and cursors of a page, and their values in this run.
type Names = BTreeMap<String, String>;

/// A command with the output that the page shows.
#[derive(Debug)]
struct Example {
    command: String,
    output: Vec<String>,
}

/// The examples in the `console` blocks of `page`.
fn examples(page: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let mut in_block = false;
    for line in page.lines() {
        if in_block {
            match (line.strip_prefix("$ "), examples.last_mut()) {
                (Some(command), _) => examples.push(Example { command: command.to_owned(), output: Vec::new() }),
                (None, _) if line == "```" => in_block = false,
                (None, Some(example)) if !line.is_empty() => example.output.push(line.to_owned()),
                _ => {}
            }
        } else if line == "```console" {
            in_block = true;
        }
    }
    examples
}

/// How many bytes at the beginning of `text` differ from run to run: an id, a time or a cursor.
fn name_at(text: &str, before: &str) -> Option<usize> {
    let is_like = |form: &str| {
        text.len() >= form.len()
            && form.bytes().zip(text.bytes()).all(|(form, byte)| match form {
                b'x' => byte.is_ascii_hexdigit(),
                b'0' => byte.is_ascii_digit(),
                _ => byte == form,
            })
    };
    let forms = ["xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", "0000-00-00T00:00:00.000Z"];
    let cursor = || before.ends_with(r#""next_cursor":""#).then(|| text.find('"')).flatten();
    forms.iter().find(|form| is_like(form)).map(|form| form.len()).or_else(cursor)
}

/// Whether `actual` is `expected`, in which `…` stands for any text. A name stands for one
/// value, which is kept in `names`.
fn is_as_shown(expected: &str, actual: &str, names: &mut Names) -> bool {
    /// From the byte `place` of `shown` on.
    fn matches(place: usize, shown: &str, actual: &str, names: &mut Names) -> bool {
        let (before, expected) = shown.split_at(place);
        let Some(next) = expected.chars().next() else { return actual.is_empty() };
        if next == '…' {
            let mut ends = actual.char_indices().map(|(end, _)| end).chain([actual.len()]);
            return ends.any(|end| {
                let mut tried = names.clone();
                let fits = matches(place + next.len_utf8(), shown, &actual[end..], &mut tried);
                if fits {
                    *names = tried;
                }
                fits
            });
        }
        let length = name_at(expected, before).unwrap_or(next.len_utf8());
        let (Some(name), Some(given)) = (expected.get(..length), actual.get(..length)) else { return false };
        let fits = if length == next.len_utf8() {
            name == given
        } else {
            name_at(actual, before) == Some(length)
                && names.entry(name.to_owned()).or_insert_with(|| given.to_owned()) == given
        };
        fits && matches(place + length, shown, &actual[length..], names)
    }
    matches(0, expected, actual, names)
}

/// The anchors that GitHub makes of a page's headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut in_block = false;
    let headings = page.lines().filter(|line| {
        in_block ^= line.trim_start().starts_with("```");
        !in_block && line.starts_with('#')
    });
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let anchor = |heading: &str| -> String {
        heading.trim_start_matches('#').trim().to_lowercase().chars().filter(kept).collect()
    };
    headings.map(|heading| anchor(heading).replace(' ', "-")).collect()
}

/// `page` without its fenced blocks of code.
fn prose(page: &str) -> String {
    let mut in_block = false;
    let lines = page.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        in_block ^= is_fence;
        !in_block && !is_fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The code in the prose of `page`: the text between single or double backquotes.
fn spans(page: &str) -> BTreeSet<String> {
    let prose = prose(page).split_whitespace().collect::<Vec<_>>().join(" ");
    let parts = prose.split("``").enumerate();
    let spans = parts.flat_map(|(index, part)| if index % 2 == 1 { vec![part] } else { pages::code(part) });
    spans.map(ToOwned::to_owned).collect()
}

/// The lines of the fenced blocks of code in `page`, without comments and without diagrams.
fn block_lines(page: &str) -> BTreeSet<String> {
    let (mut language, mut lines) = (None, BTreeSet::new());
    for line in page.lines().map(str::trim) {
        match (line.strip_prefix("```"), language) {
            (Some(name), None) => language = Some(name),
            (Some(_), Some(_)) => language = None,
            (None, Some(name)) if name != "mermaid" => {
                lines.insert(line.split("    #").next().unwrap_or_default().to_owned());
            }
            _ => {}
        }
    }
    lines
}

/// The cells of the table in `section`, without its heading and its first column.
fn figures(section: &str) -> Vec<Vec<String>> {
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split('|').skip(1).map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// The path, from the project's root, to which `link` in `page` points.
fn resolve(page: &str, link: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            ".." => assert!(parts.pop().is_some(), "{page}: {link} leaves the project"),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[test]
fn every_link_finds_its_file_and_its_section() {
    let texts: BTreeMap<String, String> =
        pages::pages().into_iter().map(|page| (page.clone(), pages::read(&page))).collect();
    let mut found = 0;
    for (page, text) in &texts {
        let text = prose(text);
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
            let target = if file.is_empty() { page.clone() } else { resolve(page, file) };
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(&target).exists(), "{page}: there is no file {link}");
            if let Some(anchor) = anchor {
                let other = texts.get(&target).unwrap_or_else(|| panic!("{page}: {link} leads to no page"));
                assert!(anchors(other).contains(anchor), "{page}: there is no section {link}");
            }
            found += 1;
        }
    }
    assert!(found > 150, "{found} links were found");
}

#[test]
fn every_page_can_be_reached_from_the_readme_in_its_language() {
    for page in pages::pages().iter().filter(|page| *page != "README.md") {
        let (readme, link) = if page.starts_with(".github/docs/ko/") {
            (".github/README.ko.md", page.trim_start_matches(".github/"))
        } else {
            ("README.md", page.as_str())
        };
        assert!(pages::read(readme).contains(&format!("]({link})")), "{readme} has no link to {page}");
    }
}

#[test]
fn every_page_begins_with_its_readers() {
    let pages: Vec<_> = pages::pages().into_iter().filter(|page| page.starts_with(".github/docs/")).collect();
    assert!(pages.len() > 10, "{pages:?}");
    for page in pages {
        let beginning = if page.starts_with(".github/docs/ko/") { "이 문서는 " } else { "This page is for " };
        let text = pages::read(&page);
        let first = text.split("\n\n").skip_while(|paragraph| !paragraph.starts_with("# ")).nth(1);
        assert!(first.is_some_and(|first| first.starts_with(beginning)), "{page}: {first:?}");
    }
}

#[test]
fn a_readme_has_at_most_250_lines() {
    for Readme { path, .. } in READMES {
        let lines = pages::read(path).lines().count();
        assert!(lines <= 250, "{path}: {lines} lines");
    }
}

/// A README repeats what most readers need. It says the same as the pages that have all of it.
#[test]
fn the_tables_and_the_short_guide_of_each_readme_agree_with_the_pages() {
    let cells = |text: &str| -> BTreeSet<Vec<String>> {
        pages::rows(text).into_iter().map(|row| row.into_iter().take(2).collect()).collect()
    };
    let documented = cells(&pages::page("configuration"));
    let measured = figures(&pages::page("performance"));
    for Readme { path, settings, speed, deployment, guide, .. } in READMES {
        let readme = pages::read(path);
        let settings = cells(&pages::section(&readme, settings));
        assert_eq!(settings.len(), 10, "{path}");
        assert!(settings.is_subset(&documented), "{path}: {:?}", settings.difference(&documented));

        let rows = figures(&pages::section(&readme, speed));
        assert!(rows.len() > 3, "{path}: {rows:?}");
        for row in rows {
            assert!(measured.contains(&row), "performance.md has no {row:?} of {path}");
        }

        let guide = format!("{}{}", pages::page(guide), pages::read(".aws/README.md"));
        let values = prose(&pages::section(&readme, deployment)).replace('\n', " ");
        let values = pages::code(&values);
        assert!(values.len() > 15, "{path}: {values:?}");
        for value in values {
            assert!(guide.contains(value), "the guide of {path} has no {value}");
        }
    }
}

#[test]
fn the_rows_of_the_readme_on_speed_are_those_of_the_page() {
    let performance = pages::page("performance");
    let short = pages::section(&pages::read("README.md"), "How fast");
    let rows = short.lines().filter(|line| line.starts_with('|'));
    assert!(rows.clone().count() > 5);
    for row in rows {
        assert!(performance.lines().any(|line| line == row), "performance.md has no {row}");
    }
}

/// Translation leaves code as it is. So a message, a command or a value that an English page has
/// gained is missing from its Korean counterpart until that is updated.
#[test]
fn the_korean_pages_have_all_code_of_the_english_ones() {
    let pages = [
        ("README.md", ".github/README.ko.md"),
        (".github/docs/deploy.md", ".github/docs/ko/deploy.md"),
        (".github/docs/troubleshooting.md", ".github/docs/ko/troubleshooting.md"),
    ];
    for (english, korean) in pages {
        for code in [spans, block_lines] {
            let [expected, found] = [english, korean].map(|page| code(&pages::read(page)));
            let missing: Vec<_> = expected.difference(&found).collect();
            assert!(missing.is_empty(), "{korean} lacks {missing:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_each_route_in_each_readme_succeeds() {
    for Readme { path, api, .. } in READMES {
        the_example_of_each_route_succeeds(&pages::section(&pages::read(path), api)).await;
    }
}

/// Runs the example in each row of `table` against the local stack.
async fn the_example_of_each_route_succeeds(table: &str) {
    let [open, guarded] = [stack(&[]).await, stack(&[("ACCESS_TOKENS", &format!("ada:{}", sha256("a-token")))]).await];
    let begun = say(&open, None, "Hello").await;
    let id = begun["conversation_id"].as_str().expect("an id");
    let rows = pages::rows(table);
    assert!(rows.len() > 10, "{rows:?}");
    for row in rows {
        let [command] = pages::code(&row[2])[..] else { panic!("a row with one example: {row:?}") };
        let stack = if command.contains("$TOKEN") { &guarded } else { &open };
        let url = stack.url("");
        let url = url.trim_end_matches('/');
        let script = format!("URL='{url}' TOKEN=a-token ID='{id}'\n{command} -sS --fail-with-body --noproxy '*'");
        let done = run(script).await;
        assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stdout));
    }
}

/// Runs a shell script.
async fn run(script: String) -> Output {
    let done = tokio::task::spawn_blocking(move || Command::new("sh").args(["-c", &script]).output());
    done.await.expect("no panic").expect("sh runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_for_a_token_makes_an_entry_that_accepts_it() {
    let [command, korean] = ["api", "ko/deploy"].map(|name| {
        let page = pages::page(name);
        page.lines().find(|line| line.starts_with("TOKEN=")).expect("the page has the command").to_owned()
    });
    assert_eq!(korean, command);
    let made = String::from_utf8(run(command).await.stdout).expect("text");
    let value = |name| made.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{made}"));
    let stack = stack(&[("ACCESS_TOKENS", value("entry: "))]).await;
    for (token, status) in [(value("token: "), 200), ("another", 401)] {
        let authorization = format!("Bearer {token}");
        let mut event = event("GET", "/api/v1/echo", &[("authorization", &authorization)]);
        event["rawQueryString"] = "q=hello".into();
        assert_eq!(send(&stack, &event).await.status, status, "{token}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_all_pages_answer_as_shown() {
    let stack = stack(&[]).await;
    let mut checked = BTreeMap::new();
    for page in pages::pages() {
        let (mut names, mut variables) = (Names::new(), String::new());
        for Example { command, output } in examples(&pages::read(&page)) {
            let mut command = command.split("    #").next().unwrap_or_default().to_owned();
            for address in ADDRESSES {
                command = command.replace(address, stack.url("").trim_end_matches('/'));
            }
            for (shown, given) in &names {
                command = command.replace(shown, given);
            }
            if !command.starts_with("curl ") {
                if command.split_once('=').is_some_and(|(name, _)| name.chars().all(|char| char.is_ascii_uppercase())) {
                    variables = format!("{variables}{command}\n");
                }
                continue;
            }
            if command.contains("/lambda-url/") {
                continue;
            }
            let script = format!("{variables}{command} -sS --noproxy '*'");
            let done = run(script).await;
            assert!(
                done.status.success(),
                "{page}: {command} (is curl installed?): {}",
                String::from_utf8_lossy(&done.stderr)
            );
            let answer = String::from_utf8(done.stdout).expect("text");
            if command.contains("curl -i ") {
                for line in output.iter().filter(|line| *line != "…") {
                    // API Gateway speaks HTTP/2, the local stack HTTP/1.1.
                    let line = line.replace("HTTP/2 204", "HTTP/1.1 204 No Content");
                    assert!(
                        answer.lines().any(|answered| answered == line),
                        "{page}: {command}: no {line:?} in {answer}"
                    );
                }
            } else {
                // Empty lines, as between events, are ignored in the page too.
                let answer = answer.lines().filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n");
                let shown = output.join("\n");
                assert!(
                    is_as_shown(&shown, &answer, &mut names),
                    "{page}: {command}\n  shows    {shown}\n  answered {answer}"
                );
            }
            *checked.entry(page.clone()).or_insert(0) += 1;
        }
    }
    for (page, at_least) in
        [(".github/docs/api.md", 9), (".github/docs/deploy.md", 7), (".github/docs/ko/deploy.md", 7)]
    {
        assert!(checked.get(page).is_some_and(|run| *run >= at_least), "{page}: {checked:?}");
    }
}
