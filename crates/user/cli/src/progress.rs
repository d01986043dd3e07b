//! Steps as they happen: a spinner on a terminal, plain lines otherwise. Always on standard error, so that results stay parseable.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::is_interactive;

/// Shows one step after another with the time each took.
pub(crate) struct Progress {
    start: Instant,
    step: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Starts the clock.
    pub(crate) fn start() -> Self {
        let bar = is_interactive().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { start: Instant::now(), step: Instant::now(), bar }
    }

    /// A step is done.
    pub(crate) fn done(&mut self, name: &str, detail: &str) {
        let took = self.step.elapsed();
        self.step = Instant::now();
        self.line(&format!("✓ {name:<10} {detail}  ({:.1} s)", took.as_secs_f64()));
    }

    /// A step begins that will take a while.
    pub(crate) fn begin(&mut self, name: &str) {
        self.step = Instant::now();
        match &self.bar {
            Some(bar) => bar.set_message(name.to_owned()),
            None => eprintln!("  {name}"),
        }
    }

    /// Something worth knowing that ends no step.
    pub(crate) fn note(&self, text: &str) {
        self.line(&format!("  {text}"));
    }

    /// What is awaited; shown on a terminal alone.
    pub(crate) fn waiting(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{text} ({:.0} s)", self.start.elapsed().as_secs_f64()));
        }
    }

    /// Ends the display.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
