//! The workflows on GitHub: their actions are pinned and their permissions are few. And `.ci/run`, which developers run
//! too: how it answers an unknown step, and that the develop page names its steps.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Output};

use saphyr::{LoadableYamlNode, Yaml};

/// The name and the text of every workflow.
fn workflows() -> Vec<(String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/.github/workflows");
    let files = fs::read_dir(folder).expect("the workflows' folder").map(|file| file.expect("a file").path());
    let read = |path: std::path::PathBuf| (path.display().to_string(), fs::read_to_string(&path).expect("its text"));
    files.map(read).collect()
}

/// Whether a step's `uses` names a commit, which cannot be moved, and says which version it is.
fn is_pinned(uses: &str) -> bool {
    let Some((action, version)) = uses.split_once(" # v") else { return false };
    let Some((name, commit)) = action.split_once('@') else { return false };
    let is_commit = commit.len() == 40 && commit.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_exact = version.split('.').filter(|part| part.parse::<u32>().is_ok()).count() == 3;
    name.contains('/') && is_commit && is_exact
}

#[test]
fn every_action_is_pinned_by_its_commit_with_the_version_beside_it() {
    let workflows = workflows();
    let steps = workflows.iter().flat_map(|(name, text)| text.lines().map(move |line| (name, line)));
    let uses: Vec<_> = steps
        .filter_map(|(name, line)| Some((name, line.trim_start_matches([' ', '-']).strip_prefix("uses:")?)))
        .collect();
    assert!(uses.len() >= workflows.len(), "every workflow checks the code out");
    for (name, action) in uses {
        assert!(is_pinned(action.trim()), "{name}: {action}");
    }
}

/// What this mapping of permissions allows.
fn allowed(permissions: &Yaml<'_>) -> Vec<(String, String)> {
    let text = |value: &Yaml<'_>| value.as_str().expect("a text").to_owned();
    permissions.as_mapping().expect("permissions").iter().map(|(what, how)| (text(what), text(how))).collect()
}

#[test]
fn a_workflow_can_only_read_the_code_unless_it_is_the_release() {
    let texts = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(what, how)| ((*what).to_owned(), (*how).to_owned())).collect::<Vec<_>>()
    };
    let for_release = texts(&[("contents", "write"), ("id-token", "write"), ("attestations", "write")]);
    let mut releases = 0;
    for (name, text) in workflows() {
        let [workflow] = &Yaml::load_from_str(&text).expect("YAML")[..] else { panic!("{name} is one document") };
        assert_eq!(allowed(&workflow["permissions"]), texts(&[("contents", "read")]), "{name}");
        for (job, steps) in workflow["jobs"].as_mapping().expect("jobs") {
            let Some(own) = steps.as_mapping_get("permissions") else { continue };
            assert!(name.ends_with("/release.yml"), "{name}: {job:?} asks for permissions of its own");
            assert_eq!(allowed(own), for_release);
            releases += 1;
        }
    }
    assert_eq!(releases, 1);
}

#[test]
fn a_release_is_made_from_a_tag_alone_and_signed() {
    let (_, text) = workflows().into_iter().find(|(name, _)| name.ends_with("/release.yml")).expect("the workflow");
    let [workflow] = &Yaml::load_from_str(&text).expect("YAML")[..] else { panic!("it is one document") };
    let on = workflow["on"].as_mapping().expect("what starts it");
    assert_eq!(on.keys().map(|event| event.as_str()).collect::<Vec<_>>(), [Some("push")]);
    let push = workflow["on"]["push"].as_mapping().expect("which pushes");
    assert_eq!(push.keys().map(|what| what.as_str()).collect::<Vec<_>>(), [Some("tags")]);
    assert!(
        text.contains("actions/attest-build-provenance@") && !text.contains("rust-cache"),
        "nothing from a cache is signed"
    );
}

#[test]
fn the_changelog_has_the_version_that_is_built() {
    let changelog = include_str!("../.github/CHANGELOG.md");
    let heading = format!("\n## {}\n", env!("CARGO_PKG_VERSION"));
    assert!(changelog.contains(&heading), "there is no {heading:?}");
}

fn ci_run(argument: &str) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/run");
    Command::new("bash").args([script, argument]).output().expect("bash runs")
}

/// The steps and groups of `.ci/run`.
fn ci_steps() -> BTreeSet<String> {
    let listed = String::from_utf8(ci_run("--list").stdout).expect("text");
    listed.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
}

#[test]
fn an_unknown_step_or_option_of_ci_run_ends_with_2_and_lists_the_steps() {
    let steps = ci_steps();
    assert!(steps.contains("tests") && steps.contains("quick"), "{steps:?}");
    for unknown in ["no-such-step", "--no-such-option", "format lints", "tes", "*"] {
        let ended = ci_run(unknown);
        let said = String::from_utf8(ended.stderr).expect("text");
        assert_eq!(ended.status.code(), Some(2), "{unknown}: {said}");
        assert!(said.lines().next().is_some_and(|line| line.contains(unknown)), "{unknown}: {said}");
        for step in &steps {
            assert!(said.lines().any(|line| line.starts_with(&format!("{step} "))), "{unknown}: no {step} in {said}");
        }
        assert!(ended.stdout.is_empty(), "{unknown}");
    }
}

#[test]
fn the_develop_page_names_steps_that_ci_run_has() {
    let (steps, page) = (ci_steps(), include_str!("../.github/docs/develop.md"));
    let commands = page.match_indices(".ci/run ").map(|(at, name)| &page[at + name.len()..]);
    let arguments =
        commands.flat_map(|rest| rest.split(['`', '#', '\n']).next().unwrap_or_default().split_whitespace());
    let named: BTreeSet<_> = arguments.filter(|argument| *argument != "--list").collect();
    assert!(named.len() > 10, "{named:?}");
    for step in named {
        assert!(steps.contains(step), "{step}");
    }
}
