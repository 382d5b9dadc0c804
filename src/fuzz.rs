//! Properties that hold for every input. Each fuzz target (`tests/fuzz`) has a function here, which panics if its
//! property does not hold. The tests below replay the inputs in `tests/fuzz/corpus`.

mod config;
mod cursor;
mod dns;
mod event;
mod origins;
mod query;
mod reference;

pub use self::config::config;
pub use self::cursor::cursor;
pub use self::dns::dns;
pub use self::event::event;
pub use self::origins::origins;
pub use self::query::query;
pub use self::reference::reference;
pub use crate::openai::fuzz::{model, sse};

/// Checks the property for an input.
pub type Target = fn(&[u8]);

/// Every target and its name.
pub const TARGETS: [(&str, Target); 9] = [
    ("config", config),
    ("cursor", cursor),
    ("dns", dns),
    ("event", event),
    ("model", model),
    ("origins", origins),
    ("query", query),
    ("reference", reference),
    ("sse", sse),
];

/// The first line of `input`, and what follows it.
fn line(input: &[u8]) -> (&[u8], &[u8]) {
    input.iter().position(|byte| *byte == b'\n').map_or((input, &[]), |end| (&input[..end], &input[end + 1..]))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn files(directory: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
        files.sort();
        files
    }

    fn replay(target: Target, directory: &str) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        let files = files(&directory);
        assert!(!files.is_empty(), "{} is empty", directory.display());
        for file in files {
            // The name of the one that fails is in the output of the test.
            println!("{}", file.display());
            target(&fs::read(&file).expect("a file"));
        }
    }

    #[test]
    fn the_inputs_that_fuzzing_found_behave() {
        for (name, target) in TARGETS {
            replay(target, &format!("tests/fuzz/corpus/{name}"));
        }
    }

    #[test]
    fn every_sample_event_has_a_legal_answer_without_an_upstream() {
        replay(event, "events");
    }

    #[test]
    fn every_target_can_be_fuzzed_and_nothing_else_has_inputs() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
        let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("a manifest");
        let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        for name in &names {
            let source = fs::read_to_string(fuzz.join(format!("targets/{name}.rs"))).expect("a source");
            assert!(source.contains(&format!("kus_aws_backend::fuzz::{name}(input)")), "{name}: {source}");
            assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"targets/{name}.rs\"")), "{name}");
        }
        let with_inputs = files(&fuzz.join("corpus"));
        let with_inputs: Vec<_> = with_inputs.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert_eq!(with_inputs, names);
    }
}
