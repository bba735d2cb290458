//! What the tests of the binary share: running it, folders as values, a run small enough to train in a second, and a
//! disk small enough to fill.

// Each test binary uses its part.
#![allow(dead_code, unused_imports)]

mod program;
#[cfg(unix)]
mod small_disk;
mod tiny_run;
mod tree;

pub use program::{Finished, casallm, hears_hangup, run, signal};
#[cfg(unix)]
pub use small_disk::SmallDisk;
pub use tiny_run::{RECIPE, conversations, documents, trained, trained_folder, write_inputs};
pub use tree::Tree;

/// SplitMix64: the same numbers on every machine.
pub struct Seeded(pub u64);

impl Seeded {
    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound
    }

    /// One of `items`.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }
}
