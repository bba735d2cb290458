//! What the GPU says of itself.

use super::super::sensors::Watch;
use super::fakes::build;
use crate::device::Sensors;

#[test]
fn what_the_gpu_tells_is_read_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let library = build(dir.path(), "nvml", include_str!("fake_nvml.c"));
    let watch = Watch::open(library.as_os_str(), [0, 0xc1, 0]);
    let expected = Sensors { load: Some(0.87), temperature_c: Some(71.0), power_w: None, memory_bytes: Some(5 << 30) };
    assert_eq!(watch.read(), Some(expected));
    assert_eq!(Watch::open(library.as_os_str(), [0, 0xc2, 0]).read(), None, "another GPU");
    assert_eq!(Watch::open(dir.path().join("none.so").as_os_str(), [0, 0xc1, 0]).read(), None, "no library");
}
