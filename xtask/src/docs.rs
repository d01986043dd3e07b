//! Holds the pages to the tree: every relative link, every path in code marks and every command must exist.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{build, paths, run};

/// Top-level names that make a text in code marks a path of this tree.
const ROOTS: &[&str] = &["crates/", "docs/", "tests/", "xtask/", ".ci/", ".config/", "sdks/", "dashboard/"];

/// Programs whose commands are checked.
const PROGRAMS: &[&str] = &["./x", "lambda", "lambdad"];

/// Checks every page of the clone. Builds the programs when `bin_dir` is not given.
pub(crate) fn check(bin_dir: Option<&Path>, x: &clap::Command) -> Result<()> {
    let repository = paths::repository();
    let programs = match bin_dir {
        Some(folder) => folder.to_path_buf(),
        None => build::programs(build::Profile::Dev)?,
    };
    let mut help = Help { programs, x: x.clone() };
    let mut wrong = Vec::new();
    let pages = pages(&repository)?;
    for page in &pages {
        let text = std::fs::read_to_string(page).with_context(|| page.display().to_string())?;
        let shown = page.strip_prefix(&repository).unwrap_or(page).display();
        let problems = targets(&text)
            .into_iter()
            .filter(|target| !exists(target, page, &repository))
            .map(|target| format!("{shown}: `{target}` does not exist"))
            .chain(
                commands(&text).into_iter().filter_map(|line| help.refuses(&line).map(|why| format!("{shown}: {why}"))),
            );
        wrong.extend(problems);
    }
    if !wrong.is_empty() {
        bail!("{} stale places in the pages:\n  {}", wrong.len(), wrong.join("\n  "));
    }
    run::say(&format!("check-docs: {} pages, every link, path and command exists", pages.len()));
    Ok(())
}

fn pages(repository: &Path) -> Result<Vec<PathBuf>> {
    let listed = run::output(Command::new("git").current_dir(repository).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "*.md",
    ]))?;
    Ok(listed.lines().map(|line| repository.join(line)).filter(|page| page.exists()).collect())
}

/// Link targets and paths in code marks.
fn targets(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(text) {
        for part in line.split("](").skip(1) {
            if let Some((target, _)) = part.split_once(')') {
                let target = target.split('#').next().unwrap_or_default();
                if !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:") {
                    found.push(target.to_owned());
                }
            }
        }
        let marked = code_spans(line).into_iter().filter(|span| ROOTS.iter().any(|root| span.starts_with(root)));
        found.extend(marked.filter(|span| !span.contains(['*', '<', ' ', '{', '…'])).map(str::to_owned));
    }
    found
}

fn exists(target: &str, page: &Path, repository: &Path) -> bool {
    let beside = page.parent().unwrap_or(repository).join(target);
    beside.exists() || repository.join(target).exists()
}

/// Lines outside fenced blocks.
fn prose(text: &str) -> Vec<&str> {
    let mut fenced = false;
    text.lines()
        .filter(|line| {
            let fence = line.trim_start().starts_with("```");
            fenced ^= fence;
            !fenced && !fence
        })
        .collect()
}

fn code_spans(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

/// Commands of our programs: in code marks, and in fenced blocks for a shell (with or without a `$ ` prompt).
fn commands(text: &str) -> Vec<String> {
    let mut found: Vec<String> = prose(text).into_iter().flat_map(code_spans).map(str::to_owned).collect();
    let mut language = None;
    let mut continued = String::new();
    for line in text.lines() {
        if let Some(after) = line.trim_start().strip_prefix("```") {
            language = if language.is_some() { None } else { Some(after.trim().to_owned()) };
            continue;
        }
        let typed = match language.as_deref() {
            Some("sh" | "bash" | "shell") => Some(line.trim().strip_prefix("$ ").unwrap_or(line.trim())),
            Some("console" | "text") => line.trim().strip_prefix("$ ").or_else(|| line.trim().strip_prefix("# ")),
            _ => None,
        };
        if let Some(typed) = typed {
            match typed.strip_suffix('\\') {
                Some(part) => continued.push_str(part),
                None => found.push(std::mem::take(&mut continued) + typed),
            }
        }
    }
    found
        .into_iter()
        .map(|line| line.strip_prefix("sudo ").map_or(line.clone(), str::to_owned))
        .filter(|line| is_ours(line))
        .collect()
}

fn is_ours(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next().is_some_and(|first| PROGRAMS.contains(&first)) && words.next().is_some()
}

/// The words of a command that can be checked: sub-commands and flags, up to `--`, a pipe or a comment.
fn parse(line: &str) -> (Vec<String>, Vec<String>) {
    let mut names = Vec::new();
    let mut flags = Vec::new();
    let words =
        line.split_whitespace().skip(1).take_while(|word| !["--", "|", "#", "&&", ">", "2>", "<"].contains(word));
    for word in words {
        let word = word.trim_matches(['[', ']']);
        if let Some(flag) = word.strip_prefix("--") {
            flags.push(format!("--{}", flag.split('=').next().unwrap_or(flag)));
        } else if flags.is_empty()
            && names.len() < 3
            && !word.is_empty()
            && word.chars().all(|c| c.is_ascii_lowercase() || "-|".contains(c))
        {
            names.push(word.to_owned());
        } else if names.is_empty() {
            break;
        }
    }
    (names, flags)
}

struct Help {
    programs: PathBuf,
    x: clap::Command,
}

impl Help {
    /// Why the program would not take this command; `None` when it would.
    fn refuses(&mut self, line: &str) -> Option<String> {
        let program = line.split_whitespace().next()?;
        let (names, flags) = parse(line);
        let first = names.first().cloned().unwrap_or_default();
        for alternative in names.last().map_or("", String::as_str).split('|') {
            let mut path = names.clone();
            if let Some(last) = path.last_mut() {
                *last = alternative.to_owned();
            }
            let Some(text) = self.text(program, &path) else {
                return Some(format!("`{line}`: `{program} {}` is not a command", path.join(" ")));
            };
            if let Some(flag) = flags.iter().find(|flag| !has_flag(&text, flag)) {
                return Some(format!("`{line}`: `{program} {first}` … has no {flag}"));
            }
        }
        None
    }

    fn text(&mut self, program: &str, path: &[String]) -> Option<String> {
        if program == "./x" {
            let mut command = &mut self.x;
            if let Some(name) = path.first() {
                command = command.find_subcommand_mut(name)?;
            }
            return Some(command.render_long_help().to_string());
        }
        let mut command = Command::new(self.programs.join(program));
        run::output(command.args(path).arg("--help").env("NO_COLOR", "1")).ok()
    }
}

fn has_flag(help: &str, flag: &str) -> bool {
    flag == "--help" || flag == "--version" || help.split([' ', '\n', ',', '=', '[', ']']).any(|word| word == flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_marked_paths_are_found_and_web_links_are_not() {
        let text = "[a](docs/a.md#part) [b](https://b) `crates/types` `crates/*/x`\n```text\n[c](c.md)\n```\n";
        assert_eq!(targets(text), ["docs/a.md", "crates/types"]);
    }

    #[test]
    fn commands_come_from_marks_prompts_and_continued_lines() {
        let text = "Run `./x demo`.\n```console\n$ lambda ssh web -- uname\nlambda output\n```\n```sh\nlambda instance create \\\n  --name web\n```\n";
        assert_eq!(commands(text), ["./x demo", "lambda ssh web -- uname", "lambda instance create --name web"]);
    }

    #[test]
    fn only_subcommands_and_flags_are_checked() {
        let (names, flags) = parse("lambda instance create --name web --shape=nano -- --not-ours");
        assert_eq!(names, ["instance", "create"]);
        assert_eq!(flags, ["--name", "--shape"]);
        assert_eq!(parse("./x test FILTER").0, ["test"]);
    }

    #[test]
    fn a_flag_is_matched_whole() {
        assert!(has_flag("  --name <NAME>  A name", "--name"));
        assert!(!has_flag("  --names <NAME>", "--name"));
    }

    #[test]
    fn an_unknown_command_or_flag_of_x_is_refused() {
        let x = clap::Command::new("x").subcommand(clap::Command::new("demo").arg(clap::arg!(--once)));
        let mut help = Help { programs: PathBuf::new(), x };
        assert_eq!(help.refuses("./x demo --once"), None);
        assert!(help.refuses("./x dem").is_some());
        assert!(help.refuses("./x demo --twice").is_some());
    }
}
