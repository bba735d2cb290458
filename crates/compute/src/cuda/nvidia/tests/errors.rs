//! What a person reads where something is missing, too old or refuses.

use super::super::error::CudaError;
use super::super::libraries::{open_cublaslt, open_driver_in, open_nvrtc};
use super::super::search::Place;
use super::super::{NvidiaDriver, NvidiaSettings};
use super::fakes::{Machine, build};

fn told(opened: Result<NvidiaDriver, CudaError>) -> String {
    opened.err().expect("this must not open").to_string()
}

#[test]
fn a_missing_driver_is_named_with_places_and_remedy() {
    let machine = Machine::new();
    let places = [Place::Folder(machine.path("nowhere")), Place::Folder(machine.path("cache"))];
    let error = open_driver_in(&machine.surroundings(), &places).err().unwrap();
    let text = error.to_string();
    for part in ["libcuda.so.1", "NVIDIA's driver", "/nowhere, ", "/cache", "nvidia.com/drivers", "--device cpu"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    assert!(error.is_absence());
}

#[test]
fn missing_libraries_are_named_with_the_command_for_this_driver() {
    let machine = Machine::new();
    // Nothing of the real system may be found: names that this driver cannot serve.
    for (major, packages) in
        [(12, "nvidia-cublas-cu12 nvidia-cuda-nvrtc-cu12"), (13, "nvidia-cublas nvidia-cuda-nvrtc")]
    {
        let surroundings = machine.surroundings();
        std::fs::remove_dir_all(machine.path("cache/libraries")).ok();
        let error = open_nvrtc(&surroundings, major).err();
        // A developer's system may have the library where every program finds it: then there is nothing to say.
        let Some(error) = error else { continue };
        let text = error.to_string();
        let command = format!("pip install --target \"{}\" {packages}", machine.path("cache/libraries").display());
        for part in [&format!("libnvrtc.so.{major}"), "compiles the kernels", &command, "--device cpu"] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
        assert!(!error.is_absence(), "a GPU without its libraries deserves a word");
        let text = open_cublaslt(&surroundings, major, (8, 9)).err().unwrap().to_string();
        assert!(text.contains(&format!("libcublasLt.so.{major}")) && text.contains(&command), "{text}");
    }
}

#[test]
fn an_old_driver_is_refused_by_its_version() {
    let machine = Machine::new();
    machine.set("cuda", "fake_version", 11040);
    let text = told(machine.open());
    assert!(text.contains("CUDA 11.4") && text.contains("12.0") && text.contains("--device cpu"), "{text}");
}

/// A driver so old that functions are missing: the version is the reason, not the name of a function.
#[test]
fn a_driver_without_functions_is_refused_by_its_version() {
    let machine = Machine::new();
    let old = "int cuDriverGetVersion(int* v) { return *v = 9020, 0; }\n\
               int cuGetErrorName(unsigned c, const char** t) { return 1; }\n\
               int cuGetErrorString(unsigned c, const char** t) { return 1; }\n";
    let path = build(&machine.path(""), "old", old);
    std::fs::create_dir(machine.path("old")).unwrap();
    std::fs::rename(path, machine.path("old/libcuda.so.1")).unwrap();
    let opened = open_driver_in(&machine.surroundings(), &[Place::Folder(machine.path("old"))]);
    let text = opened.err().unwrap().to_string();
    assert!(text.contains("CUDA 9.2"), "{text}");
}

#[test]
fn a_library_without_a_function_is_passed_over_and_named() {
    let machine = Machine::new();
    let path = build(&machine.path(""), "stub", "int nothing;");
    std::fs::remove_file(machine.path("cache/libraries/nvidia/fake/lib/libcublasLt.so.12")).unwrap();
    std::fs::create_dir_all(machine.path("cache/libraries/nvidia/stub/lib")).unwrap();
    std::fs::rename(path, machine.path("cache/libraries/nvidia/stub/lib/libcublasLt.so.12")).unwrap();
    // A real one that this system's linker finds would be taken instead, and then fail on the fake GPU.
    let text = told(machine.open());
    let lacking = "stub/lib/libcublasLt.so.12 is there, but it lacks cublasLtCreate";
    assert!(text.contains(lacking) || text.contains("cublasLtCreate failed"), "{text}");
}

#[test]
fn a_file_that_is_no_library_is_named() {
    let machine = Machine::new();
    std::fs::create_dir(machine.path("text")).unwrap();
    std::fs::write(machine.path("text/libcuda.so.1"), "not a library").unwrap();
    let opened = open_driver_in(&machine.surroundings(), &[Place::Folder(machine.path("text"))]);
    let text = opened.err().unwrap().to_string();
    assert!(text.contains("text/libcuda.so.1 is there, but"), "{text}");
}

#[test]
fn a_driver_that_refuses_says_what_that_means() {
    let machine = Machine::new();
    // Where there is no GPU nobody wonders that none is used; where its driver is stuck, somebody would.
    for (status, part, absent) in [
        (100, "CUDA_ERROR_NO_DEVICE", true),
        (34, "stub", true),
        (802, "fabricmanager", false),
        (803, "restart", false),
        (804, "compat", false),
        (999, "nvidia-smi", false),
    ] {
        machine.set("cuda", "fake_init", status);
        let error = machine.open().err().unwrap();
        assert!(error.to_string().contains(part) && error.is_absence() == absent, "{status}: {error}");
    }
}

#[test]
fn a_gpu_that_is_not_there_is_counted() {
    let machine = Machine::new();
    machine.set("cuda", "fake_devices", 2);
    assert!(machine.open_with(NvidiaSettings { ordinal: 1, ..NvidiaSettings::default() }).is_ok());
    let text = told(machine.open_with(NvidiaSettings { ordinal: 2, ..NvidiaSettings::default() }));
    assert!(text.contains("no cuda:2") && text.contains("2 GPUs"), "{text}");
    machine.set("cuda", "fake_devices", 0);
    assert!(machine.open().err().unwrap().is_absence());
}

/// At the start nothing of ours is on the GPU: it is not the model that is too large.
#[test]
fn a_gpu_that_others_have_filled_is_told_as_such() {
    let machine = Machine::new();
    for (status, part) in [(2, "CUDA_ERROR_OUT_OF_MEMORY"), (46, "for itself")] {
        machine.set("cuda", "fake_retain", status);
        let text = told(machine.open());
        assert!(text.contains(part) && text.contains("nvidia-smi") && text.contains("--device cpu"), "{text}");
    }
    // Room for a context, and for no more.
    machine.set("cuda", "fake_retain", 0);
    machine.set("cuda", "fake_total", 1_usize << 20);
    let text = told(machine.open());
    assert!(text.contains("33554432 bytes left") && text.contains("nvidia-smi"), "{text}");
    assert!(text.contains("--device cpu") && !text.contains("smaller model"), "{text}");
}

#[test]
fn a_gpu_that_is_too_old_is_named() {
    let machine = Machine::new();
    machine.set("cuda", "fake_major", 7);
    machine.set("cuda", "fake_minor", 5);
    let text = told(machine.open());
    assert!(text.contains("Fake GPU 0") && text.contains("7.5") && text.contains("RTX 30"), "{text}");
}

#[test]
fn a_cublaslt_that_does_not_know_the_gpu_is_passed_over() {
    let machine = Machine::new();
    machine.set("cuda", "fake_major", 12);
    machine.set("cuda", "fake_minor", 0);
    machine.set("cublaslt", "fake_version", 120_400_usize);
    let text = told(machine.open());
    let old = "it is version 12.4, and this GPU needs 12.8";
    assert!(text.contains(old) || text.contains("cublasLtCreate failed"), "{text}");
    machine.set("cublaslt", "fake_version", 120_800_usize);
    assert_eq!(crate::cuda::driver::Driver::info(&machine.open().unwrap()).isa, "sm_120");
}
