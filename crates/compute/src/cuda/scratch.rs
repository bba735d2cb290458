//! Scratch memory of operations: what each needs is said once, by the function that lays it out.

use super::driver::Address;

/// Every piece starts at a multiple of this, as allocations do: no vector access or matrix product finds it unaligned.
const ALIGN: usize = 256;

/// Cuts pieces from the front of a block; the block may be imaginary, to find out how long it must be.
pub(crate) struct Carver {
    start: Address,
    used: usize,
}

impl Carver {
    pub(crate) fn at(start: Address) -> Self {
        Carver { start, used: 0 }
    }

    /// The next piece; it holds whatever was there.
    pub(crate) fn take(&mut self, bytes: usize) -> Address {
        let at = self.start.offset(self.used);
        self.used += bytes.next_multiple_of(ALIGN);
        at
    }
}

/// Bytes that a layout takes.
pub(crate) fn measure<L>(layout: impl FnOnce(&mut Carver) -> L) -> usize {
    let mut carver = Carver::at(Address::NULL);
    layout(&mut carver);
    carver.used
}
