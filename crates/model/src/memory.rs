//! The list of what a run allocates, made before anything is allocated.

use casallm_compute::{ComputeError, Device, Place};

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

    /// Adds an entry of the one or the other; where there is one memory it is the device's.
    pub fn add_at(&mut self, place: Place, name: &str, bytes: u64) {
        match place {
            Place::Host if !self.one_memory => self.add_host(name, bytes),
            _ => self.add(name, bytes),
        }
    }

    fn sum(&self, wanted: impl Fn(&MemoryItem) -> bool) -> u64 {
        self.items.iter().filter(|item| wanted(item)).fold(0, |total, item| total.saturating_add(item.bytes))
    }

    /// Sum of what [`Device::allocated_bytes`] will count.
    pub fn on_device(&self) -> u64 {
        self.sum(|item| !item.host)
    }

    /// Sum of what the host holds.
    pub fn host_total(&self) -> u64 {
        self.sum(|item| item.host)
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
        let largest = self.largest(|item| !item.host || self.one_memory);
        let (needed_mib, available_mib) = (self.total() >> 20, available >> 20);
        Err(ComputeError::PlanTooLarge { needed_mib, available_mib, largest }.into())
    }

    /// Refuses a plan whose part in the host's memory is larger than what this machine has.
    ///
    /// # Errors
    /// [`ComputeError::HostPlanTooLarge`] with the three largest entries.
    pub fn check_host(&self, available: Option<u64>) -> Result<(), ModelError> {
        let needed = self.host_total();
        match available.filter(|available| needed > *available && !self.one_memory) {
            None => Ok(()),
            Some(available) => {
                let largest = self.largest(|item| item.host);
                let (needed_mib, available_mib) = (needed >> 20, available >> 20);
                Err(ComputeError::HostPlanTooLarge { needed_mib, available_mib, largest }.into())
            }
        }
    }

    /// The three largest entries, in words.
    fn largest(&self, wanted: impl Fn(&MemoryItem) -> bool) -> String {
        let mut items: Vec<&MemoryItem> = self.items.iter().filter(|item| wanted(item)).collect();
        items.sort_by_key(|item| std::cmp::Reverse(item.bytes));
        let named = items.iter().take(3).map(|item| format!("{} ({} MiB)", item.name, item.bytes >> 20));
        named.collect::<Vec<_>>().join(", ")
    }
}
