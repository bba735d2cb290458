//! What the GPU says of itself: load, heat, power, memory. NVIDIA's management library has it, which comes with the driver.
//!
//! A machine without that library, or a GPU without a sensor, is no error: what is not known is absent.

use std::ffi::OsStr;

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;

use crate::device::Sensors;

/// The library, under the name by which the linker knows it.
pub(super) const LIBRARY: &str = "libnvidia-ml.so.1";

/// The library and the GPU's place on the bus: processes may number GPUs as they like, the bus does not.
pub(super) struct Watch {
    library: Option<Nvml>,
    bus: String,
}

impl Watch {
    /// Opens the library at `path`, if it is there and willing. `place` is the GPU's PCI domain, bus and device.
    pub(super) fn open(path: &OsStr, place: [i32; 3]) -> Self {
        let [domain, bus, device] = place;
        Watch {
            library: Nvml::builder().lib_path(path).init().ok(),
            bus: format!("{domain:08x}:{bus:02x}:{device:02x}.0"),
        }
    }

    /// The GPU at this moment; `None` where nothing is known of it.
    pub(super) fn read(&self) -> Option<Sensors> {
        let gpu = self.library.as_ref()?.device_by_pci_bus_id(self.bus.as_str()).ok()?;
        let sensors = Sensors {
            load: gpu.utilization_rates().ok().map(|rates| f64::from(rates.gpu) / 100.0),
            temperature_c: gpu.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
            power_w: gpu.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1e3),
            memory_bytes: gpu.memory_info().ok().map(|memory| memory.used),
        };
        (sensors != Sensors::default()).then_some(sensors)
    }
}
