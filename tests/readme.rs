//! README's examples with curl, run as they stand there: the answers are those that it shows.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::in_process::event;
use crate::policy;
use crate::talk::{send, stack};

/// The addresses that stand for the local stack's.
const ADDRESSES: [&str; 2] = ["http://127.0.0.1:8000", "https://abc123.execute-api.us-east-1.amazonaws.com"];

/// What differs from run to run: README's ids, times and cursors, and what they are in this one.
type Names = BTreeMap<String, String>;

/// A command with the output that README shows.
#[derive(Debug)]
struct Example {
    command: String,
    output: Vec<String>,
}

/// The sections, each with the examples in its `console` blocks.
fn sections(readme: &str) -> Vec<Vec<Example>> {
    let mut sections = vec![Vec::new()];
    let mut in_block = false;
    for line in readme.lines() {
        let examples: &mut Vec<Example> = sections.last_mut().expect("there is one");
        if in_block {
            match (line.strip_prefix("$ "), examples.last_mut()) {
                (Some(command), _) => examples.push(Example { command: command.to_owned(), output: Vec::new() }),
                (None, _) if line == "```" => in_block = false,
                (None, Some(example)) if !line.is_empty() => example.output.push(line.to_owned()),
                _ => {}
            }
        } else if line == "```console" {
            in_block = true;
        } else if line.starts_with("## ") {
            sections.push(Vec::new());
        }
    }
    sections
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

/// Whether `actual` is `expected`, in which `…` stands for any text. A name stands for one value:
/// what it is, is put into `names`.
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

#[test]
fn every_link_to_a_section_finds_it() {
    let pages = ["README.md", ".github/README.ko.md", ".aws/README.md"];
    let (mut found, of_page) = (0, |page: &str| anchors(&policy::read(page)));
    for page in pages {
        let text = policy::read(page);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for (file, anchor) in targets.filter_map(|target| target.split_once('#')) {
            let Some(other) = (match file {
                "" => Some(page),
                _ => pages.into_iter().rev().find(|other| file.trim_start_matches("../") == *other),
            }) else {
                continue;
            };
            assert!(of_page(other).contains(anchor), "{page}: there is no section #{anchor} in {other}");
            found += 1;
        }
    }
    assert!(found > 20, "{found} links were found");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_that_makes_a_token_makes_the_entry_that_lets_it_in() {
    let readme = policy::read("README.md");
    let command = readme.lines().find(|line| line.starts_with("TOKEN=")).expect("README has the command").to_owned();
    let done = tokio::task::spawn_blocking(move || Command::new("sh").args(["-c", &command]).output());
    let made = String::from_utf8(done.await.expect("no panic").expect("sh runs").stdout).expect("text");
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
async fn the_examples_of_the_readme_answer_as_it_shows() {
    let stack = stack(&[]).await;
    let readme = policy::read("README.md");
    let mut run = 0;
    for examples in sections(&readme) {
        let (mut names, mut variables) = (Names::new(), String::new());
        for Example { command, output } in examples {
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
            let done = tokio::task::spawn_blocking(move || Command::new("sh").args(["-c", &script]).output());
            let done = done.await.expect("no panic").expect("sh runs");
            assert!(done.status.success(), "{command} (is curl installed?): {}", String::from_utf8_lossy(&done.stderr));
            let answer = String::from_utf8(done.stdout).expect("text");
            if command.contains("curl -i ") {
                for line in output.iter().filter(|line| *line != "…") {
                    // API Gateway speaks HTTP/2, the local stack HTTP/1.1.
                    let line = line.replace("HTTP/2 204", "HTTP/1.1 204 No Content");
                    assert!(answer.lines().any(|answered| answered == line), "{command}: no {line:?} in {answer}");
                }
            } else {
                // Empty lines, as between events, are not read from README either.
                let answer = answer.lines().filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n");
                let shown = output.join("\n");
                assert!(is_as_shown(&shown, &answer, &mut names), "{command}\n  shows    {shown}\n  answered {answer}");
            }
            run += 1;
        }
    }
    assert!(run > 10, "{run} examples were found");
}
