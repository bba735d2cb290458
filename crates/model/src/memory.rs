//! The list of what a run allocates, made before anything is allocated.

use casallm_compute::{ComputeError, Device};

use crate::error::ModelError;

/// A named amount of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryItem {
    /// What it is for.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
    /// Whether the host holds it, not the device.
    pub host: bool,
}

/// Everything a run will allocate, listed before anything is.
#[derive(Clone, Debug, Default)]
pub struct MemoryPlan {
    /// Largest things first is not promised.
    pub items: Vec<MemoryItem>,
    /// Whether the device's memory is the host's.
    one_memory: bool,
}

impl MemoryPlan {
    /// An empty list for a device.
    pub fn of<D: Device>(device: &D) -> Self {
        MemoryPlan { items: Vec::new(), one_memory: device.is_host() }
    }

    /// Adds an entry of the device's memory.
    pub fn add(&mut self, name: &str, bytes: u64) {
        self.items.push(MemoryItem { name: name.into(), bytes, host: false });
    }

    /// Adds an entry of the host's memory.
    pub fn add_host(&mut self, name: &str, bytes: u64) {
        self.items.push(MemoryItem { name: name.into(), bytes, host: true });
    }

    fn sum(&self, wanted: impl Fn(&MemoryItem) -> bool) -> u64 {
        self.items.iter().filter(|item| wanted(item)).fold(0, |total, item| total.saturating_add(item.bytes))
    }

    /// Sum of what [`Device::allocated_bytes`] will count.
    pub fn on_device(&self) -> u64 {
        self.sum(|item| !item.host)
    }

    /// Sum of what takes from the device's memory: of everything, where that is the host's.
    pub fn total(&self) -> u64 {
        self.sum(|item| !item.host || self.one_memory)
    }

    /// Refuses a plan larger than what the device has.
    ///
    /// # Errors
    /// [`ComputeError::PlanTooLarge`] with the three largest entries.
    pub fn check(&self, available: Option<u64>) -> Result<(), ModelError> {
        let Some(available) = available else { return Ok(()) };
        if self.total() <= available {
            return Ok(());
        }
        let mut items: Vec<&MemoryItem> = self.items.iter().filter(|i| !i.host || self.one_memory).collect();
        items.sort_by_key(|i| std::cmp::Reverse(i.bytes));
        let largest: Vec<String> =
            items.iter().take(3).map(|i| format!("{} ({} MiB)", i.name, i.bytes >> 20)).collect();
        Err(ComputeError::PlanTooLarge {
            needed_mib: self.total() >> 20,
            available_mib: available >> 20,
            largest: largest.join(", "),
        }
        .into())
    }
}
