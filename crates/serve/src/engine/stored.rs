//! Sequences that are kept outside the model's own cache, so that it may serve others meanwhile: their token ids, and
//! keys and values in blocks. Sequences with a common beginning share its blocks.
//!
//! A memory budget holds; beyond it the longest unused go, to disk where there is a [`Spill`].

use std::sync::Arc;

use super::spill::Spill;

/// Tokens of a block. Small enough that little is kept twice where sequences part, large enough for fast copies.
pub(super) const BLOCK: usize = 64;

/// Keys and values of up to [`BLOCK`] tokens.
type Block = Arc<Vec<u8>>;

enum Rows {
    Memory(Vec<Block>),
    /// Written by the spill under this number.
    Disk(u64),
}

struct Entry {
    ids: Vec<u32>,
    rows: Rows,
    used: u64,
}

/// What is kept.
pub(super) struct Stored {
    entries: Vec<Entry>,
    budget: usize,
    bytes_a_token: usize,
    bytes: usize,
    clock: u64,
    spill: Option<Spill>,
}

/// Tokens with which both begin.
pub(super) fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Stored {
    /// Nothing yet, or what an earlier process has left on disk.
    pub(super) fn new(budget: usize, bytes_a_token: usize, spill: Option<Spill>) -> Self {
        let mut stored = Stored { entries: Vec::new(), budget, bytes_a_token, bytes: 0, clock: 0, spill };
        for (number, ids) in stored.spill.iter().flat_map(Spill::contents) {
            stored.clock += 1;
            stored.entries.push(Entry { ids, rows: Rows::Disk(number), used: stored.clock });
        }
        stored
    }

    /// Bytes in memory. A block that several share counts once.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn count(&mut self) {
        let mut blocks: Vec<(*const Vec<u8>, usize)> = Vec::new();
        for entry in &self.entries {
            if let Rows::Memory(rows) = &entry.rows {
                blocks.extend(rows.iter().map(|block| (Arc::as_ptr(block), block.len())));
            }
        }
        blocks.sort_unstable();
        blocks.dedup();
        self.bytes = blocks.iter().map(|(_, bytes)| bytes).sum();
    }

    /// Whether what has no room in memory may go to disk.
    pub(super) fn has_disk(&self) -> bool {
        self.spill.is_some()
    }

    /// Sequences, in memory and on disk.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entry that shares the longest beginning with `ids`, and how long it is; the one used last among equals.
    pub(super) fn longest(&self, ids: &[u32]) -> Option<(usize, usize)> {
        let candidates = self.entries.iter().enumerate().map(|(i, entry)| (i, common_prefix(&entry.ids, ids)));
        candidates.filter(|(_, n)| *n > 0).max_by_key(|(i, n)| (*n, self.entries[*i].used))
    }

    /// Tokens of an entry.
    pub(super) fn ids(&self, entry: usize) -> &[u32] {
        &self.entries[entry].ids
    }

    /// Hands out the first `tokens` of an entry, piece by piece: position, tokens, and the piece's rows. False, and the
    /// entry is gone, when its file cannot be read or is damaged; what was handed out until then means nothing.
    pub(super) fn take(&mut self, entry: usize, tokens: usize, mut put: impl FnMut(usize, usize, &[u8])) -> bool {
        self.clock += 1;
        self.entries[entry].used = self.clock;
        let Entry { ids, rows, .. } = &self.entries[entry];
        if let Rows::Disk(number) = *rows {
            // In memory from now on, and no longer on disk: written again when it has to go again.
            let blocks = self.spill.as_mut().and_then(|spill| spill.take(number, ids, self.bytes_a_token));
            let Some(blocks) = blocks else {
                self.entries.remove(entry);
                return false;
            };
            self.entries[entry].rows = Rows::Memory(blocks.into_iter().map(Arc::new).collect());
        }
        let Rows::Memory(blocks) = &self.entries[entry].rows else { unreachable!("read above") };
        for (i, block) in blocks.iter().enumerate() {
            let at = i * BLOCK;
            if at < tokens {
                put(at, (tokens - at).min(block.len() / self.bytes_a_token), block);
            }
        }
        self.shrink();
        true
    }

    /// Keeps a sequence; `save` gives the rows of a range of its tokens, unless they cannot be had any more: then it is not
    /// kept. What another entry has already is shared.
    pub(super) fn insert(&mut self, ids: &[u32], mut save: impl FnMut(std::ops::Range<usize>) -> Option<Vec<u8>>) {
        // More than the budget cannot be kept; the beginning is worth most, for it is what others may share.
        let most = self.budget / self.bytes_a_token.max(1);
        let ids = if ids.len() <= most { ids } else { &ids[..most / BLOCK * BLOCK] };
        if ids.is_empty() {
            return;
        }
        self.clock += 1;
        let clock = self.clock;
        if let Some(held) = self.entries.iter_mut().find(|entry| entry.ids.starts_with(ids)) {
            held.used = clock;
            return;
        }
        let mut blocks: Vec<Block> = Vec::new();
        for entry in &self.entries {
            if let Rows::Memory(rows) = &entry.rows {
                let whole = common_prefix(&entry.ids, ids) / BLOCK;
                if whole > blocks.len() {
                    blocks = rows[..whole].to_vec();
                }
            }
        }
        while blocks.len() * BLOCK < ids.len() {
            let at = blocks.len() * BLOCK;
            let Some(block) = save(at..ids.len().min(at + BLOCK)) else { return };
            blocks.push(Arc::new(block));
        }
        // Those that it continues are part of it.
        self.retain(|entry| !ids.starts_with(&entry.ids));
        self.entries.push(Entry { ids: ids.to_vec(), rows: Rows::Memory(blocks), used: clock });
        self.shrink();
    }

    fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        let spill = &mut self.spill;
        self.entries.retain(|entry| {
            let kept = keep(entry);
            if let (false, Rows::Disk(number), Some(spill)) = (kept, &entry.rows, spill.as_mut()) {
                spill.remove(*number);
            }
            kept
        });
    }

    /// Down to the budget.
    fn shrink(&mut self) {
        self.count();
        while self.bytes > self.budget {
            let in_memory = |entry: &&mut Entry| matches!(entry.rows, Rows::Memory(_));
            let Some(oldest) = self.entries.iter_mut().filter(in_memory).min_by_key(|entry| entry.used) else { return };
            let used = oldest.used;
            if !Self::to_disk(self.spill.as_mut(), oldest) {
                self.entries.retain(|entry| entry.used != used);
            }
            self.count();
        }
        self.forget_what_left_the_disk();
    }

    /// Writes an entry to disk; false where there is none, or no room.
    fn to_disk(spill: Option<&mut Spill>, entry: &mut Entry) -> bool {
        let (Some(spill), Rows::Memory(blocks)) = (spill, &entry.rows) else { return false };
        let Some(number) = spill.write(&entry.ids, blocks) else { return false };
        entry.rows = Rows::Disk(number);
        true
    }

    /// Writes everything to disk, the longest unused first: ahead of the end of the process.
    pub(super) fn save_all(&mut self) {
        self.entries.sort_by_key(|entry| entry.used);
        let spill = &mut self.spill;
        self.entries.retain_mut(|entry| matches!(entry.rows, Rows::Disk(_)) || Self::to_disk(spill.as_mut(), entry));
        self.forget_what_left_the_disk();
    }

    fn forget_what_left_the_disk(&mut self) {
        let gone = self.spill.as_mut().map(Spill::take_evicted).unwrap_or_default();
        self.entries.retain(|entry| !matches!(&entry.rows, Rows::Disk(number) if gone.contains(number)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four bytes a token: its id.
    fn rows(ids: &[u32]) -> Vec<u8> {
        ids.iter().flat_map(|id| id.to_le_bytes()).collect()
    }

    fn insert(stored: &mut Stored, ids: &[u32]) -> usize {
        let mut saved = 0;
        stored.insert(ids, |range| {
            saved += range.len();
            Some(rows(&ids[range]))
        });
        saved
    }

    fn taken(stored: &mut Stored, entry: usize, tokens: usize) -> Vec<u8> {
        let mut found = Vec::new();
        assert!(stored.take(entry, tokens, |at, n, bytes| {
            assert_eq!(at * 4, found.len());
            found.extend_from_slice(&bytes[..4 * n]);
        }));
        found
    }

    fn count(from: u32, n: u32) -> Vec<u32> {
        (from..from + n).collect()
    }

    #[test]
    fn the_longest_common_beginning_wins_and_comes_back_whole() {
        let mut stored = Stored::new(1 << 20, 4, None);
        let (a, mut b) = (count(0, 200), count(0, 150));
        b.extend(count(900, 100));
        assert_eq!(insert(&mut stored, &a), 200);
        // Two blocks are shared.
        assert_eq!(insert(&mut stored, &b), 250 - 128);
        assert_eq!(stored.bytes(), 4 * (200 + 122));
        let mut wanted = b[..170].to_vec();
        wanted.push(7);
        let (entry, n) = stored.longest(&wanted).unwrap();
        assert_eq!(n, 170);
        assert_eq!(taken(&mut stored, entry, n), rows(&b[..170]));
        assert_eq!(stored.longest(&count(0, 180)).unwrap().1, 180);
        assert!(stored.longest(&[5]).is_none());
    }

    #[test]
    fn what_continues_an_entry_takes_its_place_and_what_is_held_is_not_saved_again() {
        let mut stored = Stored::new(1 << 20, 4, None);
        insert(&mut stored, &count(0, 100));
        assert_eq!(insert(&mut stored, &count(0, 300)), 300 - 64);
        assert_eq!(stored.len(), 1);
        assert_eq!(insert(&mut stored, &count(0, 200)), 0);
        assert_eq!(stored.len(), 1);
    }

    #[test]
    fn beyond_the_budget_the_longest_unused_goes() {
        let mut stored = Stored::new(4 * 300, 4, None);
        insert(&mut stored, &count(0, 100));
        insert(&mut stored, &count(1000, 100));
        insert(&mut stored, &count(2000, 100));
        // Use the first: then the second is the oldest.
        let (entry, n) = stored.longest(&count(0, 100)).unwrap();
        taken(&mut stored, entry, n);
        insert(&mut stored, &count(3000, 100));
        assert!(stored.longest(&count(1000, 100)).is_none());
        assert!(stored.longest(&count(0, 100)).is_some());
        assert!(stored.bytes() <= 4 * 300);
        // A sequence larger than everything is kept as far as it fits.
        insert(&mut stored, &count(5000, 1000));
        assert_eq!(stored.longest(&count(5000, 1000)).unwrap().1, 256);
    }
}
