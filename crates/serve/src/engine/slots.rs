//! The model's sequences and what each holds; and where the beginning of a prompt is found.

use super::model::SequenceModel;
use super::spill::Spill;
use super::stored::{Stored, common_prefix};

/// At least so many tokens of a prompt are read, even where more are held (or all, where it has fewer): the last one's
/// logits are needed, and up to eight tokens may be read by other kernels than more are (attention's, and on a GPU those of
/// quantised products), which round otherwise. So an answer has the same bits whether or not its prompt was held as one;
/// what was held of an earlier answer was written a token at a time.
pub(super) const LEAST_READ: usize = 9;

/// One of the model's sequences.
#[derive(Default)]
struct Slot {
    /// Tokens whose keys and values it holds.
    held: Vec<u32>,
    busy: bool,
    used: u64,
}

/// Where a prefix lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Slot(usize),
    Stored(usize),
}

/// All of them, with what is stored beside them.
pub(super) struct Slots {
    slots: Vec<Slot>,
    stored: Stored,
    clock: u64,
}

impl Slots {
    pub(super) fn new(model: &impl SequenceModel, stored_bytes: usize, spill: Option<Spill>) -> Self {
        let slots = (0..model.sequences()).map(|_| Slot::default()).collect();
        Slots { slots, stored: Stored::new(stored_bytes, model.bytes_a_token(), spill), clock: 0 }
    }

    pub(super) fn stored(&self) -> &Stored {
        &self.stored
    }

    /// Whether a sequence is free.
    pub(super) fn any_free(&self) -> bool {
        self.slots.iter().any(|slot| !slot.busy)
    }

    /// Takes a free sequence for a prompt and lets it hold as much of it as is found anywhere. Gives the sequence and how
    /// many tokens need not be read. `None` when all are busy.
    pub(super) fn take(&mut self, model: &mut impl SequenceModel, prompt: &[u32]) -> Option<(usize, usize)> {
        let wanted = &prompt[..prompt.len().saturating_sub(LEAST_READ)];
        loop {
            let source = self.longest(wanted);
            let slot = self.victim(source)?;
            let tokens = source.map_or(0, |(_, tokens)| tokens);
            if self.fill(model, slot, source) {
                self.clock += 1;
                self.slots[slot] = Slot { held: prompt[..tokens].to_vec(), busy: true, used: self.clock };
                return Some((slot, tokens));
            }
            // Its file was damaged and is gone: look again.
        }
    }

    /// Who holds the longest beginning, and how long it is.
    fn longest(&self, wanted: &[u32]) -> Option<(Source, usize)> {
        let slots = self.slots.iter().enumerate().map(|(i, slot)| (Source::Slot(i), common_prefix(&slot.held, wanted)));
        let stored = self.stored.longest(wanted).map(|(entry, tokens)| (Source::Stored(entry), tokens));
        // Among equals a free sequence, which has it in place already.
        let free = |source: Source| matches!(source, Source::Slot(i) if !self.slots[i].busy);
        slots.chain(stored).filter(|(_, tokens)| *tokens > 0).max_by_key(|(source, tokens)| (*tokens, free(*source)))
    }

    /// Which free sequence to give up: the source itself if hardly anything else would be lost, or else an empty one, or
    /// else the one that was used longest ago.
    fn victim(&self, source: Option<(Source, usize)>) -> Option<usize> {
        if let Some((Source::Slot(i), tokens)) = source
            && !self.slots[i].busy
            && self.slots[i].held.len() <= tokens + LEAST_READ
        {
            return Some(i);
        }
        let free = self.slots.iter().enumerate().filter(|(_, slot)| !slot.busy);
        free.min_by_key(|(_, slot)| (!slot.held.is_empty(), slot.used)).map(|(i, _)| i)
    }

    /// Stores what `slot` holds, then copies the source's beginning into it. False when the source is gone.
    fn fill(&mut self, model: &mut impl SequenceModel, slot: usize, source: Option<(Source, usize)>) -> bool {
        let source = source.map(|(source, tokens)| (source, tokens, self.ids(source)[..tokens].to_vec()));
        // Unless hardly anything would be lost of what it holds.
        let kept = source.as_ref().map_or(0, |(_, _, ids)| common_prefix(&self.slots[slot].held, ids));
        if self.slots[slot].held.len() > kept + LEAST_READ {
            self.store(model, slot);
        }
        match source {
            None => true,
            Some((Source::Slot(from), ..)) if from == slot => true,
            Some((Source::Slot(from), tokens, _)) => {
                // Without them the pass that follows fails as well.
                if let Some(rows) = model.save(from, 0..tokens) {
                    model.restore(slot, 0, tokens, &rows);
                }
                true
            }
            Some((Source::Stored(_), tokens, ids)) => {
                // Storing may have moved or dropped it.
                let Some((entry, found)) = self.stored.longest(&ids) else { return false };
                found == tokens
                    && self.stored.take(entry, tokens, |at, tokens, rows| model.restore(slot, at, tokens, rows))
            }
        }
    }

    fn ids(&self, source: Source) -> &[u32] {
        match source {
            Source::Slot(i) => &self.slots[i].held,
            Source::Stored(entry) => self.stored.ids(entry),
        }
    }

    fn store(&mut self, model: &impl SequenceModel, slot: usize) {
        let held = std::mem::take(&mut self.slots[slot].held);
        self.stored.insert(&held, |tokens| model.save(slot, tokens));
    }

    /// A busy sequence has read more.
    pub(super) fn hold(&mut self, slot: usize, ids: &[u32]) {
        self.slots[slot].held.extend_from_slice(ids);
    }

    /// A sequence is free again; what it holds stays.
    pub(super) fn release(&mut self, slot: usize) {
        self.clock += 1;
        self.slots[slot].busy = false;
        self.slots[slot].used = self.clock;
    }

    /// Forgets what a sequence holds, and frees it.
    pub(super) fn forget(&mut self, slot: usize) {
        self.slots[slot].held.clear();
        self.release(slot);
    }

    /// Writes everything to disk, where there is one.
    pub(super) fn save_all(&mut self, model: &impl SequenceModel) {
        if !self.stored.has_disk() {
            return;
        }
        let mut order: Vec<usize> = (0..self.slots.len()).collect();
        order.sort_by_key(|slot| self.slots[*slot].used);
        for slot in order {
            self.store(model, slot);
        }
        self.stored.save_all();
    }
}
