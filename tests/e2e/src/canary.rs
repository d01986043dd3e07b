//! Searching for planted bytes where they must not be.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Something planted, and the forms in which a careless program would keep it.
#[derive(Debug, Clone)]
pub struct Canary {
    /// Where it was planted.
    pub place: &'static str,
    /// Random text, 24 hexadecimal characters: long enough that chance never finds it.
    pub text: String,
}

impl Canary {
    /// A fresh one.
    ///
    /// # Panics
    /// When the system gives no randomness.
    #[must_use]
    pub fn new(place: &'static str) -> Self {
        let mut bytes = [0u8; 12];
        File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).expect("randomness");
        Self { place, text: bytes.iter().map(|byte| format!("{byte:02x}")).collect() }
    }

    /// Plain, UTF-16LE, the three base64 alignments (their stable middle part), hexadecimal in both cases, and decimal lists
    /// as `Debug` and JSON print bytes.
    ///
    /// # Panics
    /// When the text is so short that chance would find a form of it.
    #[must_use]
    pub fn needles(&self) -> Vec<Vec<u8>> {
        let plain = self.text.as_bytes();
        assert!(plain.len() >= 8, "too short to search for: {}", self.text);
        let wide = plain.iter().flat_map(|byte| [*byte, 0]).collect();
        let mut needles = vec![plain.to_vec(), wide];
        needles.extend((0..3).map(|shift| base64_middle(plain, shift)));
        needles.push(joined(plain, "", |byte| format!("{byte:02x}")));
        needles.push(joined(plain, "", |byte| format!("{byte:02X}")));
        needles.extend([", ", ","].map(|between| joined(plain, between, |byte| byte.to_string())));
        needles
    }

    /// True when the haystack holds it in any form.
    #[must_use]
    pub fn is_in(&self, haystack: &[u8]) -> bool {
        self.needles().iter().any(|needle| contains(haystack, needle))
    }
}

/// Base64 of `bytes` as it appears inside a longer base64 text at byte alignment `shift`, without the characters
/// that depend on neighbours.
fn base64_middle(bytes: &[u8], shift: usize) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let skip = (3 - shift) % 3;
    bytes[skip..]
        .chunks_exact(3)
        .flat_map(|three| {
            let bits = u32::from(three[0]) << 16 | u32::from(three[1]) << 8 | u32::from(three[2]);
            [18, 12, 6, 0].map(|at| ALPHABET[(bits >> at & 63) as usize])
        })
        .collect()
}

fn joined(bytes: &[u8], between: &str, form: impl Fn(&u8) -> String) -> Vec<u8> {
    bytes.iter().map(form).collect::<Vec<_>>().join(between).into_bytes()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(haystack, needle).is_some()
}

/// Every file below `root` that holds one of the canaries, with the canary's place. What vanishes meanwhile is skipped;
/// sockets, devices and namespaces have no bytes
/// to read.
///
/// # Errors
/// When a folder or file that is there cannot be read.
pub fn search_tree(root: &Path, canaries: &[Canary]) -> io::Result<Vec<(PathBuf, &'static str)>> {
    let mut hits = Vec::new();
    // The root itself must be there.
    drop(std::fs::read_dir(root).map_err(|error| at(root, &error))?);
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Some(entries) = still_there(&folder, std::fs::read_dir(&folder))? else { continue };
        for entry in entries {
            let Some(entry) = still_there(&folder, entry)? else { continue };
            let path = entry.path();
            let Some(kind) = still_there(&path, entry.file_type())? else { continue };
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let Some(file) = still_there(&path, File::open(&path))? else { continue };
                if is_namespace(&file).map_err(|error| at(&path, &error))? {
                    continue;
                }
                let places = search(file, canaries).map_err(|error| at(&path, &error))?;
                hits.extend(places.into_iter().map(|place| (path.clone(), place)));
            }
        }
    }
    Ok(hits)
}

/// The places of the canaries that the file holds.
///
/// # Errors
/// When it cannot be read.
pub fn search_file(path: &Path, canaries: &[Canary]) -> io::Result<Vec<&'static str>> {
    File::open(path).and_then(|file| search(file, canaries)).map_err(|error| at(path, &error))
}

/// True for a handle to a kernel namespace: it has a name in a folder and no bytes.
fn is_namespace(file: &File) -> io::Result<bool> {
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    Ok(rustix::fs::fstatfs(file)?.f_type == NSFS_MAGIC)
}

/// `None` for what is no longer there.
fn still_there<T>(path: &Path, result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path, &error)),
    }
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot search {}: {error}", path.display()))
}

/// Reads in windows that overlap by the longest form; holes read as zeros.
fn search(mut file: File, canaries: &[Canary]) -> io::Result<Vec<&'static str>> {
    const WINDOW: usize = 8 << 20;
    let forms: Vec<_> = canaries.iter().map(|canary| (canary.place, canary.needles())).collect();
    let overlap = forms.iter().flat_map(|(_, needles)| needles).map(Vec::len).max().unwrap_or_default();
    let mut found = Vec::new();
    let mut window = Vec::with_capacity(WINDOW + overlap);
    loop {
        let keep = window.len().min(overlap);
        window.drain(..window.len() - keep);
        if file.by_ref().take(WINDOW as u64).read_to_end(&mut window)? == 0 {
            return Ok(found);
        }
        if window.iter().all(|byte| *byte == 0) {
            continue;
        }
        for (place, needles) in &forms {
            if !found.contains(place) && needles.iter().any(|needle| contains(&window, needle)) {
                found.push(*place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_form_and_nothing_else() {
        let canary = Canary { place: "here", text: "00112233445566778899aabb".into() };
        let mut hidden = b"xx".to_vec();
        hidden.extend_from_slice(canary.text.as_bytes());
        assert!(canary.is_in(&hidden));
        assert!(canary.is_in(&hidden.iter().flat_map(|byte| [*byte, 0]).collect::<Vec<_>>()));
        // base64 of "", "a", "ab" before the canary
        for encoded in [
            "MDAxMTIyMzM0NDU1NjY3Nzg4OTlhYWJi",
            "YTAwMTEyMjMzNDQ1NTY2Nzc4ODk5YWFiYg==",
            "YWIwMDExMjIzMzQ0NTU2Njc3ODg5OWFhYmI=",
        ] {
            assert!(canary.is_in(encoded.as_bytes()), "{encoded}");
        }
        assert!(!canary.is_in(b"00112233445566778899aab_"));
    }

    #[test]
    fn finds_bytes_that_were_printed_as_numbers() {
        let canary = Canary { place: "here", text: "jklmno01".into() };
        for printed in [
            "6a6b6c6d6e6f3031",
            "6A6B6C6D6E6F3031",
            "[106, 107, 108, 109, 110, 111, 48, 49]",
            "[106,107,108,109,110,111,48,49]",
        ] {
            assert!(canary.is_in(printed.as_bytes()), "{printed}");
        }
        for other in ["6a6b6c6d6e6f3032", "[106, 107, 108, 109, 110, 111, 48, 50]", "[106,107,108,109,110,111,48,50]"] {
            assert!(!canary.is_in(other.as_bytes()), "{other}");
        }
        assert_eq!(format!("{:?}", canary.text.as_bytes()), "[106, 107, 108, 109, 110, 111, 48, 49]");
    }

    #[test]
    fn finds_the_longest_form_wherever_two_windows_meet() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("file");
        // Three digits a byte.
        let canary = Canary { place: "here", text: "d".repeat(24) };
        let printed = format!("{:?}", canary.text.as_bytes());
        for before in [1, printed.len() / 2, printed.len() - 2] {
            let mut bytes = vec![b'x'; (8 << 20) - before];
            bytes.extend_from_slice(printed.as_bytes());
            std::fs::write(&path, bytes).expect("writable");
            assert_eq!(search_file(&path, std::slice::from_ref(&canary)).expect("readable"), ["here"], "{before}");
        }
    }

    #[test]
    #[should_panic(expected = "too short")]
    fn what_chance_would_find_cannot_be_searched_for() {
        let _ = Canary { place: "here", text: "req_".into() }.needles();
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_not_an_absence() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let canary = Canary::new("here");
        assert!(search_file(&folder.path().join("missing"), std::slice::from_ref(&canary)).is_err());
        assert!(search_file(folder.path(), std::slice::from_ref(&canary)).is_err(), "a folder is not a file");
        assert!(search_tree(&folder.path().join("missing"), std::slice::from_ref(&canary)).is_err());

        std::fs::create_dir(folder.path().join("deep")).expect("writable");
        let path = folder.path().join("deep/file");
        // Across the border of two windows.
        let mut bytes = vec![b'x'; (8 << 20) - 7];
        bytes.extend_from_slice(canary.text.as_bytes());
        std::fs::write(&path, bytes).expect("writable");
        let hits = search_tree(folder.path(), std::slice::from_ref(&canary)).expect("readable");
        assert_eq!(hits, [(path, "here")]);
    }
}
