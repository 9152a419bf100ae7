//! Looks for secrets in the whole writable memory of this process.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// How much of a secret is looked for.
const NEEDLE_BYTES: usize = 16;

/// What is looked for, kept so that it is not found here.
pub struct Needle([u8; NEEDLE_BYTES]);

impl Needle {
    /// Of the first bytes of a secret.
    pub fn hide(bytes: &[u8]) -> Needle {
        let mut needle = [0; NEEDLE_BYTES];
        for (hidden, byte) in needle.iter_mut().zip(bytes) {
            *hidden = !byte;
        }
        Needle(needle)
    }

    fn is_at(&self, bytes: &[u8]) -> bool {
        self.0.iter().zip(bytes).all(|(hidden, byte)| !hidden == *byte)
    }
}

/// Times the needle occurs in this process' writable memory.
pub fn occurrences(needle: &Needle) -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let memory = File::open("/proc/self/mem").unwrap();
    let mut found = Vec::new();
    let mut page = vec![0; 1 << 20];
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let range = line.split(' ').next().unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let (mut at, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        while at < end {
            let want = page.len().min((end - at) as usize);
            let Ok(len) = memory.read_at(&mut page[..want], at) else { break };
            let hits = page[..len].windows(NEEDLE_BYTES).filter(|window| needle.is_at(window)).count();
            // What was read lies in the page now; it must not be found there in its turn.
            page.fill(0);
            if hits > 0 {
                found.push(format!("{hits} in {line}"));
            }
            if len < NEEDLE_BYTES || at + len as u64 == end {
                break;
            }
            at += (len - NEEDLE_BYTES + 1) as u64;
        }
    }
    found
}
