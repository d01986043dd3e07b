//! Searching for planted bytes where they must not be.

use std::fs::File;
use std::io::Read as _;
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

    /// Plain, UTF-16LE, and the three base64 alignments (their stable middle part).
    #[must_use]
    pub fn needles(&self) -> Vec<Vec<u8>> {
        let plain = self.text.as_bytes().to_vec();
        let wide = plain.iter().flat_map(|byte| [*byte, 0]).collect();
        let mut needles = vec![plain.clone(), wide];
        needles.extend((0..3).map(|shift| base64_middle(&plain, shift)));
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

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(haystack, needle).is_some()
}

/// Every file below `root` that holds one of the canaries, with the canary's place. Files that vanish meanwhile are skipped;
/// sockets and devices are not read.
#[must_use]
pub fn search_tree(root: &Path, canaries: &[Canary]) -> Vec<(PathBuf, &'static str)> {
    let mut hits = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                hits.extend(search_file(&entry.path(), canaries).into_iter().map(|place| (entry.path(), place)));
            }
        }
    }
    hits
}

/// The places of the canaries that the file holds. Reads in overlapping windows; holes read as zeros.
#[must_use]
pub fn search_file(path: &Path, canaries: &[Canary]) -> Vec<&'static str> {
    const WINDOW: usize = 8 << 20;
    const OVERLAP: usize = 128;
    let Ok(mut file) = File::open(path) else { return Vec::new() };
    let mut found = Vec::new();
    let mut window = Vec::with_capacity(WINDOW + OVERLAP);
    loop {
        let keep = window.len().min(OVERLAP);
        window.drain(..window.len() - keep);
        let Ok(read) = file.by_ref().take(WINDOW as u64).read_to_end(&mut window) else { break };
        if read == 0 {
            break;
        }
        if window.iter().all(|byte| *byte == 0) {
            continue;
        }
        for canary in canaries {
            if !found.contains(&canary.place) && canary.is_in(&window) {
                found.push(canary.place);
            }
        }
    }
    found
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
}
