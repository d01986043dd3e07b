//! Which crate may know which. Reads `cargo metadata` and refuses an arrow that the table does not list, so a new arrow is
//! a change to this table, seen in review. Also holds the house rules that a compiler does not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::{paths, run};

/// Crate, and the crates of this workspace that it may depend on (development dependencies aside: they are not shipped).
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("lambda-types", &[]),
    ("lambda-transport", &["lambda-types"]),
    // The privacy layer knows nobody above it.
    ("lambda-tpm", &["lambda-types"]),
    ("lambda-crypto", &["lambda-types"]),
    ("lambda-attest", &["lambda-types", "lambda-tpm"]),
    // The customer's side: the only programs that open what is sealed, with the guest.
    ("lambda-sdk", &["lambda-types", "lambda-crypto", "lambda-attest", "lambda-tpm"]),
    ("lambda-cli", &["lambda-types", "lambda-sdk", "lambda-crypto", "lambda-attest", "lambda-image"]),
    ("lambda-guest", &["lambda-types", "lambda-crypto", "lambda-tpm", "lambda-attest"]),
    // The operator's side.
    ("lambda-gateway", &["lambda-types", "lambda-transport"]),
    ("lambda-control", &["lambda-types", "lambda-transport"]),
    ("lambda-node", &["lambda-types", "lambda-transport", "lambda-tpm"]),
    ("lambda-image", &["lambda-types"]),
    // The verifier opens nothing; `lambdad doctor` asks it what a probe guest's evidence is worth.
    (
        "lambdad",
        &["lambda-types", "lambda-transport", "lambda-gateway", "lambda-control", "lambda-node", "lambda-attest"],
    ),
    // Tools around the product; they drive its programs and link as little as they can.
    ("xtask", &["lambda-types"]),
    ("lambda-e2e", &["lambda-types", "lambda-attest"]),
    ("lambda-simulated-tee", &["lambda-types", "lambda-attest", "lambda-image"]),
];

/// What the operator runs must not reach, through any number of arrows: the code that opens sealed values, and the libraries
/// it is made of.
const BLIND: &[&str] =
    &["lambda-types", "lambda-transport", "lambda-gateway", "lambda-control", "lambda-node", "lambdad"];
const OPENERS: &[&str] = &["lambda-crypto", "hpke", "aes-gcm"];

/// Crates whose code must neither panic nor be unsafe.
const STRICT: &[&str] = &["lambda-types", "lambda-crypto", "lambda-tpm", "lambda-attest"];
const STRICT_LINTS: [&str; 5] = [
    "clippy::unwrap_used",
    "clippy::expect_used",
    "clippy::panic",
    "clippy::indexing_slicing",
    "clippy::arithmetic_side_effects",
];

const MOST_LINES: usize = 600;
const MOST_CRATES: usize = 20;

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    manifest_path: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Debug, Deserialize)]
struct Kind {
    kind: Option<String>,
}

impl Dependency {
    fn is_shipped(&self) -> bool {
        self.dep_kinds.iter().any(|kind| kind.kind.as_deref() != Some("dev"))
    }
}

/// Checks the workspace this program was built from.
pub(crate) fn check() -> Result<()> {
    let repository = paths::repository();
    let mut cargo = run::cargo(&repository);
    cargo.args(["metadata", "--format-version", "1", "--filter-platform", "x86_64-unknown-linux-gnu"]);
    let metadata: Metadata = serde_json::from_str(&run::output(&mut cargo)?).context("cargo metadata")?;
    let mut wrong = arrows(&metadata);
    wrong.extend(house_rules(&metadata, &repository)?);
    if wrong.is_empty() {
        run::say(&format!("check-layers: {} crates, every arrow allowed", metadata.workspace_members.len()));
        return Ok(());
    }
    bail!("{} broken rules:\n  {}", wrong.len(), wrong.join("\n  "));
}

fn arrows(metadata: &Metadata) -> Vec<String> {
    let names: BTreeMap<&str, &str> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package.name.as_str())).collect();
    let members: BTreeSet<&str> = metadata.workspace_members.iter().map(String::as_str).collect();
    let nodes: BTreeMap<&str, &Node> = metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let mut wrong = Vec::new();
    for member in &members {
        let name = names.get(member).copied().unwrap_or(member);
        let Some((_, allowed)) = MAY_KNOW.iter().find(|(known, _)| *known == name) else {
            wrong.push(format!("{name}: not in the table of xtask/src/layers.rs; say which crates it may know"));
            continue;
        };
        let deps = nodes.get(member).map_or(&[][..], |node| &node.deps);
        for dep in deps.iter().filter(|dep| dep.is_shipped() && members.contains(dep.pkg.as_str())) {
            let target = names.get(dep.pkg.as_str()).copied().unwrap_or(&dep.pkg);
            if !allowed.contains(&target) {
                wrong.push(format!("{name} → {target}: this arrow must not exist"));
            }
        }
        if BLIND.contains(&name) {
            wrong.extend(
                path_to_opener(member, &nodes, &names)
                    .map(|path| format!("{path}: what the operator runs must not be able to open sealed values")),
            );
        }
    }
    wrong
}

/// The first way from `from` to code that opens, as `a → b → c`.
fn path_to_opener(from: &str, nodes: &BTreeMap<&str, &Node>, names: &BTreeMap<&str, &str>) -> Option<String> {
    let name = |id: &str| names.get(id).map_or_else(|| id.to_owned(), |name| (*name).to_owned());
    let mut seen = BTreeSet::from([from.to_owned()]);
    let mut frontier = vec![(from.to_owned(), name(from))];
    while let Some((id, path)) = frontier.pop() {
        for dep in nodes.get(id.as_str()).map_or(&[][..], |node| &node.deps).iter().filter(|dep| dep.is_shipped()) {
            let path = format!("{path} → {}", name(&dep.pkg));
            if OPENERS.contains(&name(&dep.pkg).as_str()) {
                return Some(path);
            }
            if seen.insert(dep.pkg.clone()) {
                frontier.push((dep.pkg.clone(), path));
            }
        }
    }
    None
}

fn house_rules(metadata: &Metadata, repository: &Path) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let members: Vec<&Package> =
        metadata.packages.iter().filter(|package| metadata.workspace_members.contains(&package.id)).collect();
    if members.len() > MOST_CRATES {
        wrong.push(format!("{} crates; at most {MOST_CRATES}: a crate earns its place by a boundary", members.len()));
    }
    for package in members {
        let manifest = std::fs::read_to_string(&package.manifest_path).context("manifest")?;
        if !inherits_lints(&manifest) {
            wrong.push(format!("{}: `[lints] workspace = true` is missing", package.name));
        }
        let folder = package.manifest_path.parent().unwrap_or(repository);
        if STRICT.contains(&package.name.as_str()) {
            wrong.extend(strictness(&package.name, folder)?);
        }
        for file in rust_files(folder)? {
            let text = std::fs::read_to_string(&file)?;
            if holds_rsa_key(&text) {
                let shown = file.strip_prefix(repository).unwrap_or(&file).display();
                wrong.push(format!("{shown}: an RSA private key; deny.toml says why there must be none"));
            }
            let lines = text.lines().count();
            if lines > MOST_LINES {
                let shown = file.strip_prefix(repository).unwrap_or(&file).display();
                wrong.push(format!("{shown}: {lines} lines; split it before {MOST_LINES}"));
            }
        }
    }
    Ok(wrong)
}

/// True for code that names the private key's type of the crate rsa.
fn holds_rsa_key(source: &str) -> bool {
    shipped_code(source).contains(concat!("RsaPrivate", "Key"))
}

/// What keeps a strict crate from being strict: a lint that its root does not deny, or one that some file takes back.
fn strictness(name: &str, folder: &Path) -> Result<Vec<String>> {
    let sources = folder.join("src");
    let library = std::fs::read_to_string(sources.join("lib.rs")).context("src/lib.rs")?;
    let mut wrong: Vec<String> =
        undenied(&library).into_iter().map(|lint| format!("{name}: src/lib.rs does not deny {lint}")).collect();
    for file in rust_files(&sources)? {
        let inside = file.strip_prefix(&sources).unwrap_or(&file);
        if inside.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs"))) {
            continue;
        }
        let taken_back = relaxed(&std::fs::read_to_string(&file).with_context(|| file.display().to_string())?);
        wrong.extend(taken_back.into_iter().map(|lint| format!("{name}: src/{} allows {lint}", inside.display())));
    }
    Ok(wrong)
}

/// The lines that are neither comments nor in a `#[cfg(test)] mod … { … }`, without white space.
fn shipped_code(source: &str) -> String {
    let mut code = String::new();
    let mut lines = source.lines().peekable();
    while let Some(line) = lines.next() {
        let text = line.trim_start();
        if text == "#[cfg(test)]" && lines.peek().is_some_and(|next| next.contains("mod ") && next.ends_with('{')) {
            // rustfmt puts the end of a block at the indentation of its start.
            let end = format!("{}}}", &line[..line.len() - text.len()]);
            lines.by_ref().find(|line| *line == end);
        } else if !text.starts_with("//") {
            code.extend(text.chars().filter(|c| !c.is_whitespace()));
        }
    }
    code
}

/// What a crate root must deny and does not.
fn undenied(library: &str) -> Vec<&'static str> {
    let code = shipped_code(library);
    let mut denied = BTreeSet::new();
    for start in ["#![deny(", "#![cfg_attr(not(test),deny("] {
        denied
            .extend(code.split(start).skip(1).filter_map(|rest| rest.split(')').next()).flat_map(|all| all.split(',')));
    }
    let mut missing: Vec<&str> = STRICT_LINTS.into_iter().filter(|lint| !denied.contains(lint)).collect();
    if !code.contains("#![forbid(unsafe_code)]") {
        missing.push("unsafe_code (`forbid`)");
    }
    missing
}

/// Strict lints that the code allows, expects or only warns of.
fn relaxed(source: &str) -> Vec<&'static str> {
    let code = shipped_code(source);
    let lists = ["allow(", "expect(", "warn("].into_iter().flat_map(|level| code.split(level).skip(1));
    let named: BTreeSet<&str> =
        lists.filter_map(|rest| rest.split(')').next()).flat_map(|list| list.split(',')).collect();
    STRICT_LINTS.into_iter().filter(|lint| named.contains(lint)).collect()
}

fn inherits_lints(manifest: &str) -> bool {
    let mut lines = manifest.lines().map(str::trim);
    lines.any(|line| line == "[lints]") && lines.next() == Some("workspace = true")
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                // A crate nested in another (crates/data holds three) is visited as itself.
                if !path.join("Cargo.toml").exists() && entry.file_name() != "target" {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A workspace of `members` with arrows `(from, to, kind)`; other names are third-party crates.
    fn workspace(members: &[&str], arrows: &[(&str, &str, Option<&str>)]) -> Metadata {
        let mut names: BTreeSet<&str> = members.iter().copied().collect();
        names.extend(arrows.iter().flat_map(|(from, to, _)| [*from, *to]));
        let node = |name: &&str| {
            let deps = arrows.iter().filter(|(from, ..)| from == name).map(|(_, to, kind)| Dependency {
                pkg: (*to).into(),
                dep_kinds: vec![Kind { kind: kind.map(str::to_owned) }],
            });
            Node { id: (*name).into(), deps: deps.collect() }
        };
        Metadata {
            packages: names
                .iter()
                .map(|name| Package { id: (*name).into(), name: (*name).into(), manifest_path: PathBuf::new() })
                .collect(),
            workspace_members: members.iter().map(|name| (*name).into()).collect(),
            resolve: Resolve { nodes: names.iter().map(node).collect() },
        }
    }

    #[test]
    fn an_allowed_arrow_passes() {
        let tree = workspace(&["lambda-control", "lambda-types"], &[("lambda-control", "lambda-types", None)]);
        assert_eq!(arrows(&tree), Vec::<String>::new());
    }

    #[test]
    fn arrows_against_the_layers_are_found() {
        for (from, to) in [
            ("lambda-attest", "lambda-control"),
            ("lambda-node", "lambda-control"),
            ("lambda-control", "lambda-gateway"),
            ("lambda-gateway", "lambda-cli"),
            ("lambda-types", "lambda-tpm"),
        ] {
            let found = arrows(&workspace(&[from, to], &[(from, to, None)]));
            assert_eq!(found, [format!("{from} → {to}: this arrow must not exist")]);
        }
    }

    #[test]
    fn the_operator_reaching_an_opener_through_a_third_party_crate_is_found() {
        let tree = workspace(&["lambda-control"], &[("lambda-control", "helper", None), ("helper", "hpke", None)]);
        let found = arrows(&tree);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("lambda-control → helper → hpke:"), "{found:?}");
    }

    #[test]
    fn a_build_dependency_counts_and_a_development_dependency_does_not() {
        let with = |kind| workspace(&["lambda-node", "lambda-crypto"], &[("lambda-node", "lambda-crypto", kind)]);
        assert_eq!(arrows(&with(Some("dev"))), Vec::<String>::new());
        assert_eq!(arrows(&with(Some("build"))).len(), 2);
    }

    #[test]
    fn a_crate_that_the_table_does_not_know_is_refused() {
        assert_eq!(arrows(&workspace(&["lambda-new"], &[])).len(), 1);
    }

    #[test]
    fn the_table_has_no_cycle() {
        fn depth(name: &str, left: usize) -> usize {
            assert!(left > 0, "cycle through {name}");
            let allowed = MAY_KNOW.iter().find(|(known, _)| *known == name).map_or(&[][..], |(_, allowed)| allowed);
            allowed.iter().map(|next| depth(next, left - 1)).max().map_or(0, |deepest| deepest + 1)
        }
        for (name, _) in MAY_KNOW {
            assert!(depth(name, MAY_KNOW.len()) < MAY_KNOW.len());
        }
    }

    #[test]
    fn an_rsa_private_key_is_found_in_code_and_not_in_comments() {
        assert!(holds_rsa_key(concat!("let key = rsa::RsaPrivate", "Key::new(&mut random, 2048)?;\n")));
        assert!(!holds_rsa_key(concat!("// no RsaPrivate", "Key\nlet key = rsa::RsaPublicKey::new(n, e)?;\n")));
    }

    #[test]
    fn only_a_lints_table_that_inherits_counts() {
        assert!(inherits_lints("[package]\n\n[lints]\nworkspace = true\n"));
        assert!(!inherits_lints("[package]\n[lints]\nworkspace = false\n"));
        assert!(!inherits_lints("[package]\nworkspace = true\n"));
    }

    const ROOT: &str = "//! A crate.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]
";

    #[test]
    fn a_root_that_denies_every_strict_lint_passes() {
        assert_eq!(undenied(ROOT), Vec::<&str>::new());
        assert_eq!(undenied(&ROOT.replace("cfg_attr(\n    not(test),\n    deny(", "deny(")), Vec::<&str>::new());
    }

    #[test]
    fn a_strict_lint_that_is_only_mentioned_or_of_another_level_is_missing() {
        assert_eq!(
            undenied(&ROOT.replace("        clippy::panic,\n", "        // clippy::panic,\n")),
            ["clippy::panic"]
        );
        assert_eq!(undenied(&ROOT.replace("clippy::panic", "clippy::panic_in_result_fn")), ["clippy::panic"]);
        assert_eq!(undenied(&ROOT.replace("    deny(", "    warn(")), STRICT_LINTS);
        assert_eq!(undenied(&ROOT.replace("not(test)", "test")), STRICT_LINTS);
        assert_eq!(undenied(&ROOT.replace("forbid", "warn")), ["unsafe_code (`forbid`)"]);
    }

    #[test]
    fn a_strict_lint_that_code_takes_back_is_found() {
        for code in [
            "#[allow(clippy::panic)]\nfn f() {}\n",
            "#[expect(\n    dead_code,\n    clippy::panic,\n    reason = \"short\"\n)]\nfn f() {}\n",
            "#![cfg_attr(not(test), allow(clippy::panic))]\n",
            "#[cfg(test)]\nmod tests {\n    fn f() {}\n}\n\n#[warn(clippy::panic)]\nfn f() {}\n",
        ] {
            assert_eq!(relaxed(code), ["clippy::panic"], "{code}");
        }
    }

    #[test]
    fn what_tests_and_comments_allow_does_not_count() {
        for code in [
            "// #[allow(clippy::panic)]\n",
            "#[cfg(test)]\nmod tests {\n    #[allow(clippy::panic)]\n    fn f() {}\n}\n",
            "#[allow(dead_code)]\nfn f() { g().expect(\"clippy::panic\") }\n",
        ] {
            assert_eq!(relaxed(code), Vec::<&str>::new(), "{code}");
        }
    }
}
