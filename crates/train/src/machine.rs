//! What a Linux machine says of its processor's frequency and heat: read when a step was slow, to tell why.
//!
//! Nothing is invented: what the system does not tell is absent. Virtual machines mostly tell nothing.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The processor at this moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Mean frequency of its cores, in MHz.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_mhz: Option<f64>,
    /// The highest that a core is made for, in MHz.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_max_mhz: Option<f64>,
    /// The hottest sensor, in degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hottest_celsius: Option<f64>,
    /// Times that a core was slowed down for its heat, since the machine was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled: Option<u64>,
}

impl Machine {
    /// This machine.
    pub fn read() -> Self {
        Self::read_in(Path::new("/sys"))
    }

    /// A machine whose `/sys` is at `root`.
    fn read_in(root: &Path) -> Self {
        let cores = entries(&root.join("devices/system/cpu"), "cpu");
        let khz = |file: &str| numbers(&cores, &format!("cpufreq/{file}"));
        let now = khz("scaling_cur_freq");
        let zones = entries(&root.join("class/thermal"), "thermal_zone");
        let throttled = numbers(&cores, "thermal_throttle/core_throttle_count");
        let highest = |values: Vec<f64>| values.into_iter().reduce(f64::max);
        Machine {
            cpu_mhz: (!now.is_empty()).then(|| now.iter().sum::<f64>() / now.len() as f64 / 1e3),
            cpu_max_mhz: highest(khz("cpuinfo_max_freq")).map(|khz| khz / 1e3),
            hottest_celsius: highest(numbers(&zones, "temp")).map(|milli| milli / 1e3),
            throttled: (!throttled.is_empty()).then(|| throttled.iter().sum::<f64>() as u64),
        }
    }
}

/// Folders named `prefix` and a number.
fn entries(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let numbered = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.strip_prefix(prefix).is_some_and(|rest| rest.parse::<u32>().is_ok())
    };
    let found = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    found.filter(numbered).collect()
}

/// The numbers in `file` of each folder that has it.
fn numbers(folders: &[PathBuf], file: &str) -> Vec<f64> {
    folders.iter().filter_map(|folder| fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()).collect()
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = Vec::new();
        match (self.cpu_mhz, self.cpu_max_mhz) {
            (Some(now), Some(max)) => said.push(format!("the processor runs at {now:.0} of {max:.0} MHz")),
            (Some(now), None) => said.push(format!("the processor runs at {now:.0} MHz")),
            _ => {}
        }
        if let Some(celsius) = self.hottest_celsius {
            said.push(format!("its hottest sensor shows {celsius:.0} °C"));
        }
        if let Some(times) = self.throttled.filter(|times| *times > 0) {
            said.push(format!("cores were slowed down for heat {times} times since it was started"));
        }
        match said.is_empty() {
            true => f.write_str("the machine tells neither frequency nor temperature"),
            false => f.write_str(&said.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_tells_is_read_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Machine::read_in(root.path()), Machine::default());
        assert!(Machine::default().to_string().contains("neither"));
        for (path, text) in [
            ("devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1000000\n"),
            ("devices/system/cpu/cpu1/cpufreq/scaling_cur_freq", "2000000\n"),
            ("devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "3500000\n"),
            ("devices/system/cpu/cpu1/cpufreq/cpuinfo_max_freq", "junk\n"),
            ("devices/system/cpu/cpufreq/scaling_cur_freq", "9\n"),
            ("devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "2\n"),
            ("class/thermal/thermal_zone0/temp", "41000\n"),
            ("class/thermal/thermal_zone1/temp", "97500\n"),
            ("class/thermal/cooling_device0/temp", "999000\n"),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let machine = Machine::read_in(root.path());
        let expected = Machine {
            cpu_mhz: Some(1500.0),
            cpu_max_mhz: Some(3500.0),
            hottest_celsius: Some(97.5),
            throttled: Some(2),
        };
        assert_eq!(machine, expected);
        assert!(machine.to_string().contains("1500 of 3500 MHz") && machine.to_string().contains("98 °C"), "{machine}");
    }
}
