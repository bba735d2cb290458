//! The driver's host code on fake libraries: memory, staging, errors, launches, the kernel cache, products, attention. What the fakes
//! cannot show is that the real libraries behave as the manuals say.

mod attention;
mod errors;
mod fakes;
mod graphs;
mod products;
mod real_cudnn;
mod sensors;

use self::fakes::Machine;
use crate::cuda::driver::{Address, Argument, Driver, Kernel, Launch};
use crate::cuda::kernels::Family;
use crate::dtype::DType;
use crate::error::ComputeError;

/// Pseudo-random bytes.
fn bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

fn download(driver: &dyn Driver, from: Address, count: usize) -> Vec<u8> {
    let mut got = vec![0x55; count];
    driver.download(from, &mut got);
    driver.check().unwrap();
    got
}

#[test]
fn memory_is_zeroed_copied_and_given_back() {
    let machine = Machine::new();
    for pools in [1, 0] {
        machine.set("cuda", "fake_pools", pools);
        let driver = machine.open().unwrap();
        let before = driver.available_bytes().unwrap();
        let (a, b) = (driver.allocate(1000).unwrap(), driver.allocate(1000).unwrap());
        assert!(a.0.is_multiple_of(256) && b.0.is_multiple_of(256));
        assert_eq!(driver.available_bytes().unwrap(), before - 2000, "pools {pools}");
        assert_eq!(download(&driver, a, 1000), vec![0; 1000]);
        let values = bytes(900, 1);
        driver.upload(a.offset(50), &values);
        driver.copy(a.offset(50), b, 900);
        driver.zero(b.offset(100), 10);
        let mut want = values;
        want[100..110].fill(0);
        assert_eq!(download(&driver, b, 900), want);
        driver.free(a, 1000);
        driver.free(b, 1000);
        drop(driver);
        machine.assert_empty();
    }
}

/// The fake does nothing until something waits, so what a ring overwrites too early arrives wrong.
#[test]
fn uploads_return_at_once_and_arrive_whole() {
    let machine = Machine::new();
    let driver = machine.open().unwrap();
    let total = 50_000_000;
    let at = driver.allocate(total).unwrap();
    let mut want = bytes(total, 2);
    // Longer than the ring in one piece, then in many of every size from none to larger than a slot.
    driver.upload(at, &want);
    assert_eq!(download(&driver, at, total), want);
    let changed = bytes(total, 3);
    let mut done = 0;
    for size in [1_usize, 63, 64, 65, 0, 4097, 100_000, 4 << 20, (4 << 20) + 1, 9_999_999].iter().cycle() {
        let end = (done + size).min(total);
        let mut piece = changed[done..end].to_vec();
        driver.upload(at.offset(done), &piece);
        // The caller's bytes may change once the call returns.
        piece.fill(0xee);
        want[done..end].copy_from_slice(&changed[done..end]);
        done = end;
        if done == total {
            break;
        }
    }
    for (start, count) in [(0, 0), (0, 1), (17, 4 << 20), (5, (4 << 20) + 1), (1, 8 << 20), (0, total)] {
        assert_eq!(download(&driver, at.offset(start), count), want[start..start + count], "{start} {count}");
    }
}

#[test]
fn any_thread_may_call() {
    let machine = Machine::new();
    let driver = machine.open().unwrap();
    let at = driver.allocate(64).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| driver.upload(at, &[7; 64])).join().unwrap();
        scope.spawn(|| driver.synchronize()).join().unwrap();
    });
    assert_eq!(download(&driver, at, 64), vec![7; 64]);
}

#[test]
fn a_full_gpu_is_an_error_that_passes() {
    let machine = Machine::new();
    let driver = machine.open().unwrap();
    let error = driver.allocate(1 << 40).unwrap_err();
    assert!(matches!(error, ComputeError::OutOfMemory { bytes: 0x100_0000_0000, .. }), "{error}");
    driver.check().unwrap();
    driver.allocate(1 << 20).unwrap();
}

const ROUND: Kernel = Kernel { family: Family::Bias, storage: Some(DType::Bf16), defines: &[], entry: "round_bias" };

#[test]
fn the_first_error_stays_and_nothing_runs_after_it() {
    let machine = Machine::new();
    let driver = machine.open().unwrap();
    let at = driver.allocate(64).unwrap();
    driver.upload(at, &[1; 64]);
    machine.set("cuda", "fake_fail", 719);
    // Nothing has waited: nobody knows.
    driver.check().unwrap();
    driver.synchronize();
    let first = driver.check().unwrap_err().to_string();
    assert!(first.contains("cuStreamSynchronize") && first.contains("CUDA_ERROR_LAUNCH_FAILED"), "{first}");
    assert!(first.contains("unspecified launch failure") && first.contains("CUDA_LAUNCH_BLOCKING=1"), "{first}");
    let launches = machine.get::<i32>("cuda", "fake_launches");
    driver.launch(ROUND, Launch::linear(1, 256), &[at.into(), at.into(), 1_u32.into()]);
    driver.upload(at, &[2; 64]);
    let mut untouched = [9; 4];
    driver.download(at, &mut untouched);
    driver.zero(at, 64);
    driver.synchronize();
    assert_eq!(untouched, [9; 4]);
    assert_eq!(machine.get::<i32>("cuda", "fake_launches"), launches);
    assert_eq!(driver.allocate(1).unwrap_err().to_string(), first);
    assert_eq!(driver.check().unwrap_err().to_string(), first);
}

/// A kernel that the fake does not know: it keeps the first words of its arguments.
const PROBE: Kernel = Kernel { family: Family::Probe, storage: None, defines: &[], entry: PROBE_ENTRY };
const PROBE_ENTRY: &str = "probe_warp";

#[test]
fn a_launch_passes_its_arguments_and_asks_for_shared_memory_once() {
    let machine = Machine::new();
    let driver = machine.open().unwrap();
    let launch = Launch { grid: [3, 2, 1], block: [32, 4, 2], shared_bytes: 1000 };
    let arguments = [Argument::U32(7), Argument::I32(-8), Argument::F32(1.5), Argument::U64(0xffff_ffff_0000_0009)];
    driver.launch(PROBE, launch, &arguments);
    driver.check().unwrap();
    assert_eq!(machine.get::<[u32; 7]>("cuda", "fake_last_launch"), [3, 2, 1, 32, 4, 2, 1000]);
    assert_eq!(machine.get::<[u32; 4]>("cuda", "fake_last_values"), [7, -8_i32 as u32, 1.5_f32.to_bits(), 9]);
    assert_eq!(machine.get::<i32>("cuda", "fake_opted"), 0, "48 KiB need no asking");
    driver.launch(PROBE, launch.with_shared(90 << 10), &arguments);
    driver.launch(PROBE, launch.with_shared(60 << 10), &arguments);
    driver.check().unwrap();
    assert_eq!(machine.get::<i32>("cuda", "fake_opted"), 90 << 10);
    driver.launch(PROBE, launch.with_shared(100 << 10), &arguments);
    let error = driver.check().unwrap_err().to_string();
    assert!(error.contains(PROBE_ENTRY) && error.contains("102400"), "{error}");
}

#[test]
fn an_entry_that_is_not_there_is_named() {
    let machine = Machine::new();
    let driver = machine.open().unwrap();
    driver.launch(Kernel { entry: "absent", ..ROUND }, Launch::linear(1, 1), &[]);
    let error = driver.check().unwrap_err().to_string();
    assert!(error.contains("absent") && error.contains("bias bf16"), "{error}");
}

#[test]
fn a_module_that_the_compile_gate_does_not_know_is_refused() {
    let machine = Machine::new();
    for kernel in [Kernel { storage: None, ..ROUND }, Kernel { defines: &[("HEAD_DIM", 64)], ..ROUND }] {
        let driver = machine.open().unwrap();
        driver.launch(kernel, Launch::linear(1, 1), &[]);
        let error = driver.check().unwrap_err().to_string();
        assert!(error.contains("round_bias") && error.contains("listed"), "{error}");
    }
}

#[test]
fn a_launch_that_is_refused_says_its_dimensions() {
    let machine = Machine::new();
    let driver = machine.open().unwrap();
    let at = driver.allocate(64).unwrap();
    driver.launch(ROUND, Launch::linear(1, 2048), &[at.into(), at.into(), 1_u32.into()]);
    let error = driver.check().unwrap_err().to_string();
    assert!(error.contains("round_bias") && error.contains("2048"), "{error}");
}

#[test]
fn kernels_are_compiled_once_a_machine_and_again_when_their_file_is_damaged() {
    let machine = Machine::new();
    let start = || {
        let driver = machine.open().unwrap();
        let at = driver.allocate(1024).unwrap();
        for storage in [DType::Bf16, DType::F32] {
            let kernel = Kernel { storage: Some(storage), ..ROUND };
            for _ in 0..2 {
                driver.launch(kernel, Launch::linear(1, 256), &[at.into(), at.into(), 4_u32.into()]);
            }
        }
        driver.synchronize();
        driver.check().unwrap();
        machine.get::<i32>("nvrtc", "fake_compilations")
    };
    assert_eq!(start(), 2);
    assert_eq!(start(), 2, "from the cache");
    let files: Vec<_> = std::fs::read_dir(machine.path("cache/cuda"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "bin"))
        .collect();
    assert_eq!(files.len(), 2);
    let whole = std::fs::read(&files[0]).unwrap();
    std::fs::write(&files[0], &whole[..whole.len() - 1]).unwrap();
    assert_eq!(start(), 3, "one file was cut");
    assert_eq!(std::fs::read(&files[0]).unwrap(), whole, "and is whole again");
    // Another compiler, another driver: other code.
    machine.set("nvrtc", "fake_minor", 9);
    assert_eq!(start(), 5);
    machine.set("cuda", "fake_version", 12090);
    assert_eq!(start(), 7);
}

#[test]
fn what_it_is_is_told() {
    let machine = Machine::new();
    let driver = machine.open().unwrap();
    let info = driver.info();
    assert_eq!((info.name.as_str(), info.isa.as_str(), info.threads), ("Fake GPU 0", "sm_89", 1));
    assert_eq!((driver.multiprocessors(), driver.shared_memory_limit()), (46, 99 << 10));
}

/// Where this system has the real libraries, each function that is called is in them.
#[test]
fn the_real_libraries_have_every_function() {
    let here = super::search::Surroundings::here();
    for major in [12, 13] {
        for opened in [
            super::libraries::open_nvrtc(&here, major).map(|library| library.path),
            super::libraries::open_cublaslt(&here, major, (8, 0)).map(|library| library.path),
        ] {
            match opened {
                Ok(path) => eprintln!("CUDA {major}: {}", path.display()),
                Err(error) => {
                    let text = error.to_string();
                    assert!(!text.contains("is there, but"), "{text}");
                    eprintln!("not checked, for {text}");
                }
            }
        }
    }
}

/// Locked memory of the host is zeroed, mapped for every context, copied like the device's own, and no part of it.
#[test]
fn memory_of_the_host_serves_as_the_devices_own() {
    let machine = Machine::new();
    let driver = machine.open().unwrap();
    let before = (driver.available_bytes().unwrap(), machine.get::<usize>("cuda", "fake_pinned"));
    let (on_host, on_device) = (driver.allocate_host(1000).unwrap(), driver.allocate(1000).unwrap());
    assert!(on_host.0.is_multiple_of(256));
    // CU_MEMHOSTALLOC_PORTABLE and CU_MEMHOSTALLOC_DEVICEMAP.
    assert_eq!(machine.get::<u32>("cuda", "fake_host_flags"), 3);
    assert_eq!(driver.available_bytes().unwrap(), before.0 - 1000, "the device's memory is spared");
    assert_eq!(download(&driver, on_host, 1000), vec![0; 1000]);
    let values = bytes(1000, 5);
    driver.upload(on_host, &values);
    driver.copy(on_host, on_device, 1000);
    driver.zero(on_host.offset(10), 5);
    // What was started before may still use it.
    driver.free_host(on_host, 1000);
    assert_eq!(machine.get::<usize>("cuda", "fake_pinned"), before.1);
    assert_eq!(download(&driver, on_device, 1000), values);
    driver.free(on_device, 1000);
    drop(driver);
    machine.assert_empty();
}

#[test]
fn memory_that_cannot_be_locked_is_an_error_that_passes() {
    let machine = Machine::new();
    let driver = machine.open().unwrap();
    machine.set("cuda", "fake_lockable", 5000_usize);
    let error = driver.allocate_host(5001).unwrap_err();
    assert!(matches!(error, ComputeError::PinnedMemory { bytes: 5001, .. }), "{error}");
    driver.check().unwrap();
    let at = driver.allocate_host(5000).unwrap();
    driver.free_host(at, 5000);
    drop(driver);
    machine.assert_empty();
}

/// Through the device over the real driver.
#[test]
fn a_buffer_on_the_host_is_named_when_it_cannot_be_locked() {
    use crate::device::Device;
    let machine = Machine::new();
    let device = crate::cuda::CudaDevice::new(std::sync::Arc::new(machine.open().unwrap())).unwrap();
    let (on_device, values) = (device.allocated_bytes(), [1.5, -2.0, 0.25]);
    let mut buffer = device.allocate_on_host("master", DType::F32, 3).unwrap();
    device.write_f32(&mut buffer, 0, &values);
    let mut read = [0.0; 3];
    device.read_f32(&buffer, 0, &mut read);
    assert_eq!(read, values);
    assert_eq!((device.allocated_bytes(), device.allocated_host_bytes()), (on_device, 12));
    machine.set("cuda", "fake_lockable", 10_usize);
    let error = device.allocate_on_host("moment of embed.weight", DType::F32, 3).err().unwrap().to_string();
    assert!(error.contains("12 bytes") && error.contains("'moment of embed.weight'"), "{error}");
    assert!(error.contains("run.offload"), "{error}");
    drop(buffer);
    drop(device);
    machine.assert_empty();
}
