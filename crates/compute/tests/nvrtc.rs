//! Every module of kernels through NVRTC, by the code that compiles them on a machine with a GPU. NVRTC needs neither a
//! GPU nor a driver; where this system has none, the test says so (`--nocapture`). To have it:
//! `pip install --target ~/.cache/casallm/libraries nvidia-cuda-nvrtc`.

use casallm_compute::cuda::kernels::{entries, modules};
use casallm_compute::cuda::nvidia::compiler::{Compiler, Target};
use casallm_compute::cuda::nvidia::error::CudaError;
use casallm_compute::cuda::nvidia::search::Surroundings;

/// From the RTX 30 series and A100 to Blackwell.
const CAPABILITIES: [(i32, i32); 6] = [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)];

fn compiler() -> Option<Compiler> {
    match Compiler::open(&Surroundings::here(), 13) {
        Ok(compiler) => Some(compiler),
        Err(error) => {
            eprintln!("not checked: {error}");
            None
        }
    }
}

#[test]
fn every_module_compiles_without_a_word() {
    let Some(compiler) = compiler() else { return };
    eprintln!("NVRTC {} at {}", compiler.version(), compiler.path().display());
    // An architecture each: all of them for every module is what `.ci/compile-gate` does.
    for (module, capability) in modules().into_iter().zip(CAPABILITIES.into_iter().cycle()) {
        let target = Target::choose(capability, compiler.supported()).expect("an architecture at or below");
        let compiled = compiler.compile(&module, &target, false).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(compiled.log, "", "{module:?} for {}", target.name());
        match target {
            Target::Cubin(_) => assert!(compiled.image.starts_with(b"\x7fELF")),
            Target::Ptx(_) => assert!(compiled.image.ends_with(b"\0")),
        }
        for (entry, _) in entries(module.family.text()) {
            let named = compiled.image.windows(entry.len()).any(|window| window == entry.as_bytes());
            assert!(named, "{module:?} for {}: {entry} is not in the code", target.name());
        }
    }
}

/// What a GPU newer than the compiler gets.
#[test]
fn intermediate_code_is_text_that_ends_with_a_zero() {
    let Some(compiler) = compiler() else { return };
    let compiled = compiler.compile(&modules()[0], &Target::Ptx("compute_80".to_owned()), false).unwrap();
    let text = String::from_utf8(compiled.image).unwrap();
    assert!(text.contains(".target sm_80") && text.ends_with('\0'));
}

#[test]
fn what_does_not_compile_comes_with_the_compilers_words() {
    let Some(compiler) = compiler() else { return };
    let error = compiler.compile(&modules()[0], &Target::Cubin("sm_1".to_owned()), false).err().unwrap();
    assert!(
        matches!(&error, CudaError::Compile { target, log, .. } if target == "sm_1" && log.contains("gpu-architecture")),
        "{error}"
    );
}
