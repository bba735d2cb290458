//! [`Table`]: a hash table whose bytes are known before they are taken.

/// Slots at first.
const LEAST: usize = 1 << 10;

/// Open addressing with linear probing; a power of two of slots, at most three of four taken. The default value is a free slot.
pub(super) struct Table<T> {
    slots: Vec<T>,
    taken: usize,
}

impl<T: Copy + Default + PartialEq> Table<T> {
    pub(super) fn new() -> Self {
        Self { slots: vec![T::default(); LEAST], taken: 0 }
    }

    /// Every value of a key of this hash, and maybe others.
    pub(super) fn candidates(&self, hash: u64) -> impl Iterator<Item = T> + '_ {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        std::iter::from_fn(move || {
            let value = self.slots[at];
            at = (at + 1) & mask;
            (value != T::default()).then_some(value)
        })
    }

    /// Adds a value, which is not the default one. `hash_of` gives the hash of any value that is in the table.
    pub(super) fn add(&mut self, value: T, hash_of: impl Fn(T) -> u64) {
        if self.is_full() {
            let old = std::mem::take(&mut self.slots);
            self.slots = vec![T::default(); 2 * old.len()];
            for value in old.into_iter().filter(|value| *value != T::default()) {
                self.put(value, hash_of(value));
            }
        }
        self.put(value, hash_of(value));
        self.taken += 1;
    }

    fn put(&mut self, value: T, hash: u64) {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at] != T::default() {
            at = (at + 1) & mask;
        }
        self.slots[at] = value;
    }

    /// Whether the next value makes it grow.
    fn is_full(&self) -> bool {
        4 * (self.taken + 1) > 3 * self.slots.len()
    }

    /// Bytes after one more value.
    pub(super) fn bytes_with_another(&self) -> u64 {
        self.bytes() << usize::from(self.is_full())
    }

    /// Bytes that are taken besides while the next value is added: those of the slots that it leaves.
    pub(super) fn bytes_of_growing(&self) -> u64 {
        if self.is_full() { self.bytes() } else { 0 }
    }

    fn bytes(&self) -> u64 {
        (self.slots.len() * size_of::<T>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::SplitMix64;

    #[test]
    fn values_are_found_after_any_growth() {
        let mut table = Table::new();
        let mut random = SplitMix64::new(1, 1);
        // Some hashes come again and again.
        let values: Vec<u64> =
            (0..20_000).map(|i| if i % 3 == 0 { 1 + i % 40 } else { random.next_u64() | 1 }).collect();
        for value in &values {
            let expected = table.bytes_with_another();
            table.add(*value, |value| value >> 3);
            assert_eq!(table.bytes(), expected);
        }
        assert!(values.iter().all(|value| table.candidates(value >> 3).any(|found| found == *value)));
        assert!(table.candidates(u64::MAX).all(|found| values.contains(&found)));
        assert!(table.bytes() <= 8 * 20_000 * 8 / 3);
    }
}
