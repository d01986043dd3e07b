//! Finished vTPMs, so that creating an instance does not wait for one. They are made when no instance is being created,
//! so that making them does not slow a creation down either, unless there is none left.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, mpsc};

use super::manufacture::Workshop;
use super::{Identity, VtpmError};
use crate::layout::file;

/// Prefix of a folder in which a vTPM is being made.
const UNFINISHED: &str = "new-";

/// Pause after a failure, so that a broken host is not busy with failing.
const PAUSE: Duration = Duration::from_secs(5);

/// No vTPM was asked for during this time: the node has leisure to make more.
const LEISURE: Duration = Duration::from_secs(2);

type LastAdoption = Arc<std::sync::Mutex<Option<Instant>>>;

/// The pool: a task makes vTPMs until the channel is full.
pub(crate) struct Pool {
    ready: Mutex<mpsc::Receiver<Result<PathBuf, VtpmError>>>,
    task: tokio::task::JoinHandle<()>,
    last: LastAdoption,
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pool {
    /// Takes over what an earlier agent left in `folder` and keeps `size` vTPMs ready.
    ///
    /// # Errors
    /// When the folder cannot be read or cleaned.
    pub(crate) fn open(folder: &Path, workshop: Workshop, size: usize) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let (finished, next) = take_stock(folder)?;
        let (sender, ready) = mpsc::channel(size.max(1));
        let last = LastAdoption::default();
        let task = tokio::spawn(fill(folder.into(), workshop, sender, finished, next, last.clone()));
        Ok(Self { ready: Mutex::new(ready), task, last })
    }

    /// A finished vTPM. A failure may be long past: one more attempt shows whether it stays.
    async fn take(&self) -> Result<PathBuf, VtpmError> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let mut ready = self.ready.lock().await;
        match ready.recv().await.ok_or(VtpmError::Pool)? {
            Ok(path) => Ok(path),
            Err(_) => ready.recv().await.ok_or(VtpmError::Pool)?,
        }
    }

    /// Moves a finished vTPM into an instance's folder. `vtpm.json` comes last: it says that the move is complete.
    ///
    /// # Errors
    /// When none can be made, with the reason of the latest attempt.
    pub(crate) async fn adopt(&self, instance: &Path) -> Result<Identity, VtpmError> {
        let source = self.take().await?;
        let failed = |operation| move |source| VtpmError::Files { operation, folder: instance.into(), source };
        let state = instance.join(file::TPM_STATE);
        remove_tree(&state).map_err(failed("remove an unfinished vTPM"))?;
        std::fs::rename(source.join(file::TPM_STATE), state).map_err(failed("move the vTPM"))?;
        std::fs::rename(source.join(file::VTPM), instance.join(file::VTPM)).map_err(failed("move vtpm.json"))?;
        remove_tree(&source).map_err(failed("remove the pool's folder"))?;
        let lost = || failed("read vtpm.json")(io::ErrorKind::NotFound.into());
        Identity::load(instance).map_err(failed("read vtpm.json"))?.ok_or_else(lost)
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Finished folders, and the first unused number. Removes what was not finished or half moved.
fn take_stock(folder: &Path) -> io::Result<(Vec<PathBuf>, u64)> {
    let (mut finished, mut next) = (Vec::new(), 0);
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok());
        match number {
            Some(number) if path.join(file::VTPM).exists() && path.join(file::TPM_STATE).exists() => {
                next = next.max(number.saturating_add(1));
                finished.push(path);
            }
            Some(_) | None => remove_tree(&path)?,
        }
    }
    Ok((finished, next))
}

async fn fill(
    folder: PathBuf,
    workshop: Workshop,
    sender: mpsc::Sender<Result<PathBuf, VtpmError>>,
    finished: Vec<PathBuf>,
    next: u64,
    last: LastAdoption,
) {
    for path in finished {
        if sender.send(Ok(path)).await.is_err() {
            return;
        }
    }
    let next = AtomicU64::new(next);
    // A place is reserved before work begins, so no more are made than fit.
    while let Ok(place) = sender.reserve().await {
        // One place is the reserved one.
        while sender.max_capacity() - sender.capacity() > 1
            && let Some(pause) = leisure_in(&last)
        {
            tokio::time::sleep(pause).await;
        }
        let number = next.fetch_add(1, Ordering::Relaxed);
        let (workshop, folder) = (workshop.clone(), folder.clone());
        let made = tokio::task::spawn_blocking(move || make(&workshop, &folder, number)).await;
        let made = made.unwrap_or(Err(VtpmError::Pool));
        let failed = made.is_err();
        if let Err(error) = &made {
            tracing::warn!(%error, "cannot manufacture a vTPM");
        }
        place.send(made);
        if failed {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn leisure_in(last: &LastAdoption) -> Option<Duration> {
    let last = (*last.lock().unwrap_or_else(PoisonError::into_inner))?;
    LEISURE.checked_sub(last.elapsed()).filter(|pause| !pause.is_zero())
}

fn make(workshop: &Workshop, folder: &Path, number: u64) -> Result<PathBuf, VtpmError> {
    let started = std::time::Instant::now();
    let files = |operation| move |source| VtpmError::Files { operation, folder: folder.into(), source };
    let (unfinished, finished) = (folder.join(format!("{UNFINISHED}{number}")), folder.join(number.to_string()));
    remove_tree(&unfinished).map_err(files("remove an unfinished vTPM"))?;
    std::fs::create_dir(&unfinished).map_err(files("create a folder"))?;
    let opened = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(&unfinished, opened).map_err(files("set the mode of a folder"))?;
    workshop.make(&unfinished).inspect_err(|_| {
        if let Err(error) = remove_tree(&unfinished) {
            tracing::warn!(%error, "cannot remove an unfinished vTPM");
        }
    })?;
    std::fs::rename(&unfinished, &finished).map_err(files("rename a folder"))?;
    tracing::debug!(elapsed_ms = started.elapsed().as_millis(), "vTPM manufactured");
    Ok(finished)
}

#[cfg(test)]
mod tests;
