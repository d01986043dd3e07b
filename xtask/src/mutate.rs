//! `./x test attest --mutate`: each check of the verifier is made to pass, one at a time, and a test must notice.
//!
//! The verifier is built once with its feature `mutation`, which reads the check's id from the environment; whatever was
//! asked of the evidence, that check then passes, and nothing else changes. A check is *noticed* when a test that passes
//! as it is fails with the check disabled, alone in its process. Only evidence that the tests make up counts: the folder
//! of real evidence is out of their reach. What noticed the last check is tried first, then the tests of the same kind of
//! evidence, then all others, and those that damage every byte last.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::paths;
use crate::run::{cargo, output, say, seconds};

/// Where every check is listed; a test of the verifier keeps the page and the code equal.
const PAGE: &str = "docs/attestation-checks.md";

/// Names the check that always passes.
const DISABLED: &str = "LAMBDA_DISABLED_CHECK";

/// Longest that one test may run.
const BOUND: Duration = Duration::from_secs(600);

/// Words in the names of tests that judge thousands of damaged pieces of evidence.
const SLOW: [&str; 4] = ["flip", "bent", "every_byte", "shortened"];

/// Runs it.
///
/// # Errors
/// When a test does not pass as it is, or none notices that a check is gone.
pub(crate) fn run() -> Result<()> {
    let start = Instant::now();
    let ids = ids(&std::fs::read_to_string(paths::repository().join(PAGE)).context(PAGE)?)?;
    let tests = Tests::build()?;
    say(&format!("    {} checks, each disabled in turn, {} tests", ids.len(), tests.all.len()));
    let (next, unnoticed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || -> Result<()> {
        while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
            if !tests.notice(id)? {
                say(&format!("    NOT NOTICED: {id}"));
                lock(&unnoticed).push(id.as_str());
            }
        }
        Ok(())
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        running.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| bail!("a worker panicked")))
    })?;
    let unnoticed = lock(&unnoticed);
    if !unnoticed.is_empty() {
        bail!("no test notices that these checks are gone: {}", unnoticed.join(", "));
    }
    let by = lock(&tests.noticed_by).len();
    let took = seconds(start.elapsed());
    say(&format!("==> {} checks disabled one at a time, each noticed, by {by} tests, in {took}", ids.len()));
    Ok(())
}

/// The ids in the page's tables.
fn ids(page: &str) -> Result<Vec<String>> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let ids: Vec<String> = rows.map(|(id, _)| id.to_owned()).collect();
    if ids.is_empty() { bail!("{PAGE} lists no checks") } else { Ok(ids) }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// One test of one program.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Test {
    program: PathBuf,
    name: String,
}

/// The verifier's tests, built with the feature.
struct Tests {
    all: Vec<Test>,
    /// Those that noticed something, and so pass as they are; the latest last.
    noticed_by: Mutex<Vec<Test>>,
}

impl Tests {
    fn build() -> Result<Self> {
        let mut command = cargo(&paths::repository());
        command.args(["test", "--locked", "-p", "lambda-attest", "--features", "mutation", "--no-run"]);
        let text = output(command.args(["--message-format", "json"]))?;
        let program = |line: &str| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            let is_test = message["profile"]["test"] == true;
            message["executable"].as_str().filter(|_| is_test).map(PathBuf::from)
        };
        let mut all = Vec::new();
        for program in text.lines().filter_map(program) {
            let listed = output(Command::new(&program).args(["--list", "--format", "terse"]))?;
            let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
            all.extend(names.map(|name| Test { program: program.clone(), name: name.to_owned() }));
        }
        if all.is_empty() {
            bail!("cargo built no tests of the verifier")
        }
        Ok(Self { all, noticed_by: Mutex::default() })
    }

    /// Whether a test that passes as it is fails when this check is disabled.
    fn notice(&self, id: &str) -> Result<bool> {
        for test in self.in_order(id) {
            if test.passes(Some(id))? {
                continue;
            }
            let known = lock(&self.noticed_by).contains(&test);
            if !known && !test.passes(None)? {
                bail!("the test {} of {} fails as it is", test.name, test.program.display());
            }
            let mut noticed_by = lock(&self.noticed_by);
            noticed_by.retain(|other| *other != test);
            noticed_by.push(test);
            return Ok(true);
        }
        Ok(false)
    }

    /// Every test once, the likeliest and cheapest first.
    fn in_order(&self, id: &str) -> Vec<Test> {
        let latest = lock(&self.noticed_by).clone();
        let place = |test: &Test| latest.iter().rev().position(|other| other == test);
        let mut order: Vec<&Test> = self.all.iter().collect();
        order.sort_by_cached_key(|test| {
            let foreign = !is_of(&test.name, id);
            (is_slow(&test.name), foreign, place(test).unwrap_or(usize::MAX))
        });
        order.into_iter().cloned().collect()
    }
}

fn is_slow(name: &str) -> bool {
    SLOW.iter().any(|word| name.contains(word))
}

/// Whether the test's module is of the check's kind of evidence.
fn is_of(name: &str, id: &str) -> bool {
    let modules: &[&str] = match id.split('.').next().unwrap_or_default() {
        "snp" => &["tests::snp::"],
        "dcap" | "tdx" | "sgx" => &["tests::dcap::"],
        "cca" => &["cca::tests::"],
        "psa" => &["psa::tests::"],
        "tpm-quote" => &["tpm_quote::tests::", "tests::snp::paravisor::"],
        "eventlog" => &["eventlog::tests::"],
        _ => &["tests::negatives::", "tests::stories::"],
    };
    modules.iter().any(|module| name.starts_with(module))
}

impl Test {
    /// Runs it alone. Anything but a test that passes or fails is an error.
    fn passes(&self, disabled: Option<&str>) -> Result<bool> {
        let mut command = Command::new(&self.program);
        command.args([self.name.as_str(), "--exact", "--test-threads", "1"]).stdin(Stdio::null());
        let verifier = paths::repository().join("crates/privacy/attest");
        command.current_dir(&verifier).env("LAMBDA_FIXTURES", verifier.join("no-real-evidence")).env_remove(DISABLED);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        if let Some(id) = disabled {
            command.env(DISABLED, id);
        }
        let child = command.spawn().with_context(|| format!("cannot run {}", self.program.display()))?;
        let (status, said) = finish(child, &self.program).with_context(|| self.name.clone())?;
        let line = |end: &str| said.lines().any(|line| line == format!("test {} ... {end}", self.name));
        match (status, line("ok"), line("FAILED")) {
            (true, true, false) => Ok(true),
            (false, false, true) => Ok(false),
            _ => bail!("the test {} neither passed nor failed: {}", self.name, said.trim()),
        }
    }
}

/// What it printed, and whether it succeeded, within [`BOUND`].
fn finish(mut child: Child, program: &Path) -> Result<(bool, String)> {
    let mut pipe = child.stdout.take().context("its output")?;
    let (sender, receiver) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut said = String::new();
        let read = pipe.read_to_string(&mut said).map(|_| said);
        sender.send(read).is_ok()
    });
    let Ok(said) = receiver.recv_timeout(BOUND) else {
        child.kill()?;
        child.wait()?;
        bail!("{} did not end within {}", program.display(), seconds(BOUND));
    };
    let _sent = reader.join();
    Ok((child.wait()?.success(), said?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_are_those_of_the_page() {
        let page = "# T\n\n| id | what | standard |\n|---|---|---|\n| `a.b` | Holds. | §1 |\n| `c.d-e` | Too. | §2 |\n";
        assert_eq!(ids(page).unwrap(), ["a.b", "c.d-e"]);
        ids("# nothing").unwrap_err();
    }

    #[test]
    fn what_noticed_last_is_tried_first_and_damage_to_every_byte_last() {
        let test = |name: &str| Test { program: "program".into(), name: name.into() };
        let names = ["tests::snp::flips::a", "psa::tests::b", "tests::snp::negatives::c", "tests::snp::stories::d"];
        let noticed_by = Mutex::new(vec![test("tests::snp::stories::d")]);
        let tests = Tests { all: names.map(test).to_vec(), noticed_by };
        let order: Vec<String> = tests.in_order("snp.vmpl").into_iter().map(|test| test.name).collect();
        assert_eq!(order, [names[3], names[2], names[1], names[0]]);
        let order: Vec<String> = tests.in_order("psa.nonce").into_iter().map(|test| test.name).collect();
        assert_eq!(order, [names[1], names[3], names[2], names[0]]);
    }
}
