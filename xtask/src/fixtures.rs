//! Real evidence lies outside the repository. Where it is absent, the tests on it pass without looking at any; this module
//! finds those tests in the sources, so that a run can name what it left out.
//!
//! A test depends on the evidence when its file has a function that says `NOT CHECKED: what (no …`, and the test calls it,
//! itself or through other functions of that file or a sibling.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::paths;

const MARK: &str = "\"NOT CHECKED: ";

/// One folder of real evidence for each kind.
const KINDS: [&str; 6] = ["cca", "eventlog", "sgx", "snp", "tdx", "tpm"];

/// The folder of real evidence: `LAMBDA_FIXTURES`, else `../shared/fixtures`.
pub(crate) fn folder() -> PathBuf {
    std::env::var_os("LAMBDA_FIXTURES").map_or_else(|| paths::repository().join("../shared/fixtures"), PathBuf::from)
}

/// Those of these kinds that there is no evidence of.
pub(crate) fn absent<'a>(kinds: &[&'a str]) -> Vec<&'a str> {
    absent_in(&folder(), kinds)
}

fn absent_in<'a>(folder: &Path, kinds: &[&'a str]) -> Vec<&'a str> {
    kinds.iter().copied().filter(|kind| !folder.join(kind).is_dir()).collect()
}

/// What this run leaves out, a line each; nothing when all of the evidence is there.
pub(crate) fn left_out() -> Result<Vec<String>> {
    left_out_without(&folder())
}

fn left_out_without(folder: &Path) -> Result<Vec<String>> {
    let absent = absent_in(folder, &KINDS);
    if absent.is_empty() {
        return Ok(Vec::new());
    }
    let found = dependent(&sources(&paths::repository().join("crates"))?);
    let number: usize = found.iter().map(|group| group.tests.len()).sum();
    let (kinds, folder) = (absent.join(", "), folder.display());
    let mut lines = vec![format!(
        "NOT CHECKED: evidence of real machines ({kinds} not in {folder}; set LAMBDA_FIXTURES): {number} tests pass without some or all of it"
    )];
    lines.extend(found.iter().map(|group| format!("  {} ({}): {}", group.what, group.file, group.tests.join(", "))));
    Ok(lines)
}

/// The tests of one file that depend on the evidence.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    what: String,
    file: String,
    tests: Vec<String>,
}

/// Path within the repository, and text.
type Sources = BTreeMap<String, String>;

fn sources(folder: &Path) -> Result<Sources> {
    let repository = paths::repository();
    let mut found = Sources::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                // Workspaces of their own, with no tests among ours.
                if !["yardstick", "fuzz"].iter().any(|name| path.ends_with(name)) {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                let shown = path.strip_prefix(&repository).unwrap_or(&path).display().to_string();
                found.insert(shown, text);
            }
        }
    }
    Ok(found)
}

fn dependent(sources: &Sources) -> Vec<Group> {
    let mut groups = Vec::new();
    for (file, text) in sources {
        let functions = functions(text);
        let Some(gate) = functions.iter().find(|function| function.body.contains(MARK)) else { continue };
        let said = gate.body.split_once(MARK).map_or("", |(_, after)| after);
        let what = said.split(" (").next().unwrap_or_default();
        let what = what.replace("{tee} ", "").trim().to_owned();
        groups.push(Group { what: what.clone(), file: file.clone(), tests: callers(&functions, &gate.name) });
        // Siblings import it: `use super::fixtures::{fixtures, …}`.
        let module = Path::new(file).file_stem().unwrap_or_default().to_string_lossy();
        let import = format!("::{module}::");
        let siblings = sources.iter().filter(|(other, _)| *other != file && parent(other) == parent(file));
        for (other, text) in siblings.filter(|(_, text)| text.contains(&import)) {
            let tests = callers(&self::functions(text), &gate.name);
            if !tests.is_empty() {
                groups.push(Group { what: what.clone(), file: other.clone(), tests });
            }
        }
    }
    groups
}

fn parent(file: &str) -> Option<&Path> {
    Path::new(file).parent()
}

struct Function {
    name: String,
    is_test: bool,
    body: String,
}

/// The functions of a formatted source file: each ends where the next one begins.
fn functions(text: &str) -> Vec<Function> {
    let mut functions: Vec<Function> = Vec::new();
    let mut is_test = false;
    for line in text.lines() {
        let trimmed = line.trim_start();
        if trimmed == "#[test]" {
            is_test = true;
            continue;
        }
        let words = trimmed.trim_start_matches("pub(super) ").trim_start_matches("pub(crate) ");
        if let Some(signature) = words.strip_prefix("fn ") {
            let name = signature.split(['(', '<']).next().unwrap_or_default().to_owned();
            functions.push(Function { name, is_test, body: String::new() });
            is_test = false;
        }
        if let Some(last) = functions.last_mut() {
            last.body.push_str(line);
            last.body.push('\n');
        }
    }
    functions
}

/// Names of the tests that call this function, directly or through others.
fn callers(functions: &[Function], called: &str) -> Vec<String> {
    let mut reached = BTreeSet::from([called.to_owned()]);
    loop {
        let more: Vec<String> = functions
            .iter()
            .filter(|function| !reached.contains(&function.name))
            .filter(|function| reached.iter().any(|name| calls(&function.body, name)))
            .map(|function| function.name.clone())
            .collect();
        if more.is_empty() {
            break;
        }
        reached.extend(more);
    }
    let tests = functions.iter().filter(|function| function.is_test && reached.contains(&function.name));
    tests.map(|function| function.name.clone()).collect()
}

fn calls(body: &str, name: &str) -> bool {
    let part_of_a_name = |c: char| c.is_alphanumeric() || c == '_';
    body.match_indices(&format!("{name}(")).any(|(at, _)| {
        let before = body.get(..at).unwrap_or_default();
        !before.ends_with(part_of_a_name) && !before.ends_with("fn ")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tests_that_reach_the_evidence_are_found_and_others_are_not() {
        let here = "fn root() {\n    eprintln!(\"NOT CHECKED: real reports (no {})\");\n}\n\nfn good() {\n    root()\n}\n\n\
                    #[test]\nfn reports_hold() {\n    good();\n}\n\n#[test]\nfn roots_hold() {\n    chroot();\n}\n";
        let beside = "use super::fixtures::root;\n\n#[test]\nfn flips() {\n    for x in root() {}\n}\n";
        let sources = Sources::from([
            ("a/fixtures.rs".to_owned(), here.to_owned()),
            ("a/flips.rs".to_owned(), beside.to_owned()),
            ("b/flips.rs".to_owned(), beside.to_owned()),
        ]);
        let group = |file: &str, test: &str| Group {
            what: "real reports".into(),
            file: file.into(),
            tests: vec![test.to_owned()],
        };
        assert_eq!(dependent(&sources), [group("a/fixtures.rs", "reports_hold"), group("a/flips.rs", "flips")]);
    }

    #[test]
    fn a_run_without_evidence_counts_and_names_the_tests_that_it_leaves_out() {
        let empty = tempfile::tempdir().unwrap();
        let lines = left_out_without(empty.path()).unwrap();
        assert!(
            lines[0].starts_with("NOT CHECKED: ") && lines[0].contains("cca, eventlog, sgx, snp, tdx, tpm"),
            "{lines:#?}"
        );
        let named: usize = lines[1..].iter().map(|line| line.split(", ").count()).sum();
        assert!(lines[0].contains(&format!(" {named} tests ")), "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains("no_shortened_quote_is_accepted")), "{lines:#?}");
        for kind in KINDS {
            std::fs::create_dir(empty.path().join(kind)).unwrap();
        }
        assert_eq!(left_out_without(empty.path()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn every_file_of_the_tree_that_can_go_without_evidence_has_tests_that_do() {
        let found = dependent(&sources(&paths::repository().join("crates")).unwrap());
        assert!(found.len() >= 8, "{found:#?}");
        for group in &found {
            assert!(!group.tests.is_empty() && !group.what.is_empty(), "{group:#?}");
        }
    }
}
