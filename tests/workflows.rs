//! The workflows on GitHub: what they run is pinned, and what they may do is little.

use std::fs;

use saphyr::{LoadableYamlNode, Yaml};

/// The name and the text of every workflow.
fn workflows() -> Vec<(String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/.github/workflows");
    let files = fs::read_dir(folder).expect("the workflows' folder").map(|file| file.expect("a file").path());
    let read = |path: std::path::PathBuf| (path.display().to_string(), fs::read_to_string(&path).expect("its text"));
    files.map(read).collect()
}

/// Whether a step's `uses` names a commit, which nobody can move, and says which version it is.
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

#[test]
fn a_workflow_may_read_the_code_and_nothing_more() {
    for (name, text) in workflows() {
        let [workflow] = &Yaml::load_from_str(&text).expect("YAML")[..] else { panic!("{name} is one document") };
        let permissions = workflow["permissions"].as_mapping().expect("permissions");
        let allowed: Vec<_> = permissions.iter().map(|(what, how)| (what.as_str(), how.as_str())).collect();
        assert_eq!(allowed, [(Some("contents"), Some("read"))], "{name}");
        let jobs = workflow["jobs"].as_mapping().expect("jobs");
        for (job, steps) in jobs {
            let own = steps.as_mapping().expect("a job").keys().any(|key| key.as_str() == Some("permissions"));
            assert!(!own, "{name}: {job:?} asks for permissions of its own");
        }
    }
}
