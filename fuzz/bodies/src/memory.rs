//! Memory of this process that stands in for a mapped segment. It is exactly as long as the segment, so that the
//! address sanitizer sees an access beyond it.

use hostkv_shm_protocol::sync::{AtomicU64, Ordering};
use hostkv_shm_protocol::view::View;

/// Zeroed words.
#[derive(Debug)]
pub struct Memory(Box<[AtomicU64]>);

impl Memory {
    /// `len_bytes`, rounded down to whole words.
    pub fn new(len_bytes: u64) -> Memory {
        Memory((0..len_bytes / 8).map(|_| AtomicU64::new(0)).collect())
    }

    /// A view of all of it. Whoever owns the memory keeps it for longer than every copy of the view.
    pub fn view(&self) -> View {
        // SAFETY: the words are aligned to 8 and atomics all of them; the owner of the memory keeps it, as said above.
        unsafe { View::new(self.0.as_ptr().cast(), self.0.len() as u64 * 8) }
    }

    /// Writes bytes from the word `first` on, as far as there are words; the last word is filled up with zeros.
    pub fn fill(&self, first: usize, bytes: &[u8]) {
        for (word, chunk) in self.0.iter().skip(first).zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_le_bytes(whole), Ordering::Relaxed);
        }
    }
}
