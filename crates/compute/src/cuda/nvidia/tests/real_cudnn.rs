//! The real cuDNN, where it is installed, without a GPU: what it makes of our descriptors for GPUs that are not there. It builds
//! plans, kernels included, from a GPU's properties, and gives away nothing else, for nothing runs.
//!
//! One of its libraries wants libcuda. Where there is no driver the test is started a second time, with a libcuda that
//! says yes to everything.

use std::process::Command;
use std::sync::Arc;

use super::super::ffi::Cudnn;
use super::super::libraries::{open_cudnn, open_nvrtc};
use super::super::sdpa::{Plan, Problem, Target, most_workspace};
use super::super::search::Surroundings;
use super::fakes::build;
use crate::cuda::attention::{Backward, Forward};
use crate::cuda::driver::{Address, Attention, AttentionPass};
use crate::device::AttentionShape;

/// An H100 as the library describes one; `deviceVer` 900 is compute capability 9.0.
const H100: &str = r#"{"deviceName":"NVIDIA H100 80GB HBM3","smCountOrigin":0,"maxGridSize":[2147483647,65535,65535],
"maxBlockSize":[1024,1024,64],"oversizedSharedMemoryPerBlock":0,"cudaDeviceId":0,"deviceVer":900,"driverVer":13000,
"isTccDriver":0,"l2CacheSize":52428800,"maxCtasPerSM":32,"maxRegistersPerSM":65536,"maxSharedMemoryPerBlock":49152,
"maxSharedMemoryPerBlockOptin":232448,"maxThreadsPerBlock":1024,"maxThreadsPerSM":2048,"memClockRateKHz":2619000,
"memoryBusWidth":5120,"multiProcessorCount":132,"pciDeviceId":0,"regsPerBlock":65536,"reservedSharedMemoryPerBlock":1024,
"smClockRateKHz":1980000,"supportCoopLaunch":1,"totalGlobalMem":85017624576,"warpSize":32}"#;

/// The functions of libcuda that plans are built with, and one that is asked for and not there.
const LIBCUDA: &str = r"
#define YES(name) int name() { return 0; }
#define MADE(name) int name(void** made) { return *made = (void*)4096, 0; }
YES(cuInit) YES(cuModuleUnload) YES(cuTensorMapEncodeIm2col) YES(cuTensorMapEncodeTiled) YES(cuLibraryUnload)
YES(cuKernelSetAttribute) YES(cuLaunchKernel) YES(cuLaunchKernelEx) YES(cuLaunchCooperativeKernel) YES(cuCtxPushCurrent)
YES(cuCtxPopCurrent) YES(cuStreamGetCtx) YES(cuStreamGetGreenCtx) YES(cuCtxGetLimit) YES(cuDeviceGetAttribute)
YES(cuLinkAddData) YES(cuLinkComplete) YES(cuLinkCreate) YES(cuLinkDestroy)
MADE(cuModuleLoadData) MADE(cuModuleGetFunction) MADE(cuLibraryLoadData) MADE(cuLibraryLoadFromFile) MADE(cuLibraryGetKernel)
MADE(cuKernelGetFunction) MADE(cuCtxGetCurrent)
int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
int cuDeviceGetCount(int* count) { return *count = 1, 0; }
int cuDeviceGet(int* device) { return *device = 0, 0; }
int cuGetExportTable(void) { return 500; }
int cuKernelGetAttribute(int* value) { return *value = 0, 0; }
int cuOccupancyMaxPotentialClusterSize(int* size) { return *size = 8, 0; }
int cuGetErrorString(int error, const char** text) { return *text = 0, 1; }
int cuGetErrorName(int error, const char** text) { return *text = 0, 1; }
";

/// The variable by which the second start knows that it is one.
const AGAIN: &str = "CASALLM_TEST_CUDNN";

fn library() -> Option<Arc<Cudnn>> {
    // For any driver.
    match open_cudnn(&Surroundings::here(), 99, false) {
        Ok(Some(library)) => Some(Arc::new(library)),
        not => {
            eprintln!("not checked, for libcudnn.so.9 is not here: {:?}", not.err());
            None
        }
    }
}

fn problem(shape: AttentionShape, (sequences, length): (usize, usize), backward: bool) -> Problem {
    let at = Address::NULL;
    let pass = match backward {
        false => AttentionPass::Forward(Forward { q: at, k: at, v: at, out: at, lse: Some(at) }),
        true => AttentionPass::Backward(Backward {
            q: at,
            k: at,
            v: at,
            out: at,
            lse: at,
            d_out: at,
            dq: at,
            dk: at,
            dv: at,
        }),
    };
    Problem::of(&Attention { shape, sequences, length, pass, scratch: at, scratch_bytes: 0 })
}

#[test]
fn the_real_library_plans_our_attention_for_an_h100() {
    let Some(library) = library() else { return };
    if std::env::var_os(AGAIN).is_none() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::rename(build(dir.path(), "stub", LIBCUDA), dir.path().join("libcuda.so.1")).unwrap();
        let name = "cuda::nvidia::tests::real_cudnn::the_real_library_plans_our_attention_for_an_h100";
        let mut path = dir.path().as_os_str().to_owned();
        if let Some(more) = std::env::var_os("LD_LIBRARY_PATH") {
            path.push(":");
            path.push(more);
        }
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env("LD_LIBRARY_PATH", path)
            .env(AGAIN, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        eprint!("{said}");
        return;
    }
    // As in a driver, where the kernels' compiler is open before: the library finds it by its name.
    let _ = open_nvrtc(&Surroundings::here(), 13);
    // SAFETY: takes nothing.
    let version = unsafe { (library.cudnnGetVersion)() };
    for shape in [(16, 16, 64), (16, 4, 128)] {
        let (n_head, n_kv_head, head_dim) = shape;
        let shape = AttentionShape { n_head, n_kv_head, head_dim };
        for (sequences, length) in [(1, 256), (8, 2048)] {
            let most = most_workspace(shape, sequences * length);
            let plan = |backward| {
                let problem = problem(shape, (sequences, length), backward);
                (Plan::new(&library, Target::Properties(H100), problem, most).map(|_| ()), problem)
            };
            let (forward, problem) = plan(false);
            if let Err(error) = &forward
                && error.to_string().contains("that it needs is missing")
            {
                eprintln!("not checked, for cuDNN {version} lacks something: {error}");
                return;
            }
            forward.unwrap_or_else(|error| panic!("cuDNN {version}, {problem}: {error}"));
            // Gradients that repeat came later.
            let (backward, problem) = plan(true);
            match backward {
                Ok(()) => eprintln!("cuDNN {version}, {problem}: planned"),
                Err(error) if version < 92_800 => eprintln!("cuDNN {version}, {problem}: {error}"),
                Err(error) => panic!("cuDNN {version}, {problem}: {error}"),
            }
        }
    }
}
