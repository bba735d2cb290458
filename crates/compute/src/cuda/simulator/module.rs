//! From a kernel's text to a function of the host: compiled by the system's C++ compiler, kept on disk by its text,
//! loaded once a process.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::arena::{self, Arena};
use crate::cuda::driver::{Argument, Kernel, Launch};
use crate::cuda::kernels;

const SHIM: &str = include_str!("shim.h");
const PTX: &str = include_str!("ptx.cu");

/// As in `shim.h`.
#[repr(C)]
struct RawArgument {
    kind: u32,
    unused: u32,
    bits: u64,
}

impl From<&Argument> for RawArgument {
    fn from(argument: &Argument) -> Self {
        let (kind, bits) = match *argument {
            Argument::Pointer(address) => (0, address.0),
            Argument::U32(value) => (1, u64::from(value)),
            Argument::I32(value) => (2, u64::from(value as u32)),
            Argument::U64(value) => (3, value),
            Argument::F32(value) => (4, u64::from(value.to_bits())),
        };
        RawArgument { kind, unused: 0, bits }
    }
}

/// As in `shim.h`.
#[repr(C)]
struct RawLaunch {
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    stacks: u32,
    seed: u64,
    shared_end: *mut u8,
    stack: *mut u8,
    stack_bytes: u64,
    stack_stride: u64,
}

type Simulate = unsafe extern "C" fn(*const RawLaunch, *const RawArgument, u32) -> c_int;
type Message = unsafe extern "C" fn() -> *const c_char;
type Fault = unsafe extern "C" fn(u64, *const c_char);

/// A loaded library. Its functions share one state, so that one launch runs at a time.
pub(super) struct Module {
    handle: usize,
    running: Mutex<()>,
}

impl Module {
    /// The module of a kernel whose family has this text, compiled now or earlier.
    pub(super) fn of(kernel: &Kernel, text: &str) -> Result<Arc<Module>, String> {
        type Slot = Arc<OnceLock<Result<Arc<Module>, String>>>;
        static LOADED: Mutex<Option<HashMap<String, Slot>>> = Mutex::new(None);
        let unit = translation_unit(kernel, text);
        let slot = {
            let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(loaded.get_or_insert_default().entry(unit.clone()).or_default())
        };
        slot.get_or_init(|| Module::load(&build(kernel, &unit)?).map(Arc::new)).clone()
    }

    fn load(path: &Path) -> Result<Module, String> {
        let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|e| e.to_string())?;
        // SAFETY: a library of our own making, which runs nothing on being loaded.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            // SAFETY: dlerror returns a string or null.
            let reason = unsafe { libc::dlerror() };
            // SAFETY: as above.
            let reason = if reason.is_null() { "".into() } else { unsafe { CStr::from_ptr(reason) }.to_string_lossy() };
            return Err(format!("{}: {reason}", path.display()));
        }
        Ok(Module { handle: handle as usize, running: Mutex::new(()) })
    }

    fn symbol(&self, name: &str) -> Option<*mut c_void> {
        let name = CString::new(name).ok()?;
        // SAFETY: the handle is open as long as the process.
        let symbol = unsafe { libc::dlsym(self.handle as *mut c_void, name.as_ptr()) };
        (!symbol.is_null()).then_some(symbol)
    }

    /// Runs a grid to its end.
    pub(super) fn launch(&self, entry: &str, launch: &Launch, arguments: &[Argument], seed: u64) -> Result<(), String> {
        let absent = || "no such entry".to_string();
        let simulate = self.symbol(&format!("simulate_{entry}")).ok_or_else(absent)?;
        let message = self.symbol("simulator_message").ok_or_else(absent)?;
        let fault = self.symbol("simulator_fault").ok_or_else(absent)?;
        // SAFETY: these are the types in shim.h.
        let (simulate, message, fault) = unsafe {
            (
                std::mem::transmute::<*mut c_void, Simulate>(simulate),
                std::mem::transmute::<*mut c_void, Message>(message),
                std::mem::transmute::<*mut c_void, Fault>(fault),
            )
        };
        let arguments: Vec<RawArgument> = arguments.iter().map(RawArgument::from).collect();
        let _one_at_a_time = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        arena::with(|arena| {
            let launch = RawLaunch {
                grid: launch.grid,
                block: launch.block,
                shared_bytes: launch.shared_bytes,
                stacks: arena::STACKS as u32,
                seed,
                shared_end: arena.shared_end(),
                stack: arena.first_stack(),
                stack_bytes: Arena::STACK_BYTES as u64,
                stack_stride: Arena::STACK_STRIDE as u64,
            };
            let catching = arena::catch_faults(fault);
            // SAFETY: the structures live through the call; the library touches the arena, which is this thread's, and
            // the memory that the arguments lead to, which the caller has checked as far as it can be.
            let status = unsafe { simulate(&launch, arguments.as_ptr(), arguments.len() as u32) };
            drop(catching);
            if status == 0 {
                return Ok(());
            }
            // SAFETY: a string in the library, which no one changes before the next launch.
            Err(unsafe { CStr::from_ptr(message()) }.to_string_lossy().into_owned())
        })
    }
}

/// What the C++ compiler gets: the shim, the module's own unit with the simulator's functions in place of PTX, and one
/// function an entry that takes its arguments from a list.
fn translation_unit(kernel: &Kernel, text: &str) -> String {
    let mut unit = format!(
        "{SHIM}\n{}\n{}\n{PTX}\n#line 1 \"{}.cu\"\n{text}\n",
        kernels::defines(kernel),
        kernels::PRELUDE,
        kernel.family.name()
    );
    for (entry, bounds) in kernels::entries(text) {
        unit += &format!(
            "extern \"C\" __attribute__((visibility(\"default\"))) int simulate_{entry}(const simulator::Launch* launch, \
             const simulator::Argument* arguments, unsigned count) {{\n    \
             return simulator::run({entry}, ({bounds}), launch, arguments, count);\n}}\n"
        );
    }
    unit
}

/// The C++ compiler: what `CASALLM_SIMULATOR_CXX` names, or the first of the usual names that runs. (`CXX` is not asked:
/// the project's checks set it to nonsense, to prove that no build needs it.)
pub(super) fn compiler() -> Result<&'static str, String> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    let runs = |name: &str| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    FOUND
        .get_or_init(|| {
            let named = std::env::var("CASALLM_SIMULATOR_CXX").ok();
            let usual = ["c++", "g++", "clang++"].map(String::from);
            named.map_or_else(|| usual.into_iter().find(|name| runs(name)), |name| Some(name).filter(|name| runs(name)))
        })
        .as_deref()
        .ok_or_else(|| "no C++ compiler (CASALLM_SIMULATOR_CXX, c++, g++ or clang++)".into())
}

fn flags() -> Vec<&'static str> {
    let mut flags = vec![
        "-x",
        "c++",
        "-std=c++17",
        "-O2",
        "-fPIC",
        "-shared",
        "-fvisibility=hidden",
        "-fno-exceptions",
        "-fno-rtti",
        "-fno-strict-aliasing",
        "-Wno-unknown-pragmas",
        // A GPU refuses misaligned addresses of any type; a trap needs no library.
        "-fsanitize=alignment",
        "-fsanitize-undefined-trap-on-error",
    ];
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        flags.extend(["-mavx2", "-mfma"]);
    }
    flags
}

/// Where libraries are kept: beside the test that runs, in cargo's target folder.
fn folder() -> PathBuf {
    let target = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.parent()?.to_path_buf()));
    target.unwrap_or_else(std::env::temp_dir).join("cuda-simulator")
}

/// FNV-1a, 128 bits.
fn fingerprint(text: &str) -> u128 {
    let step =
        |hash: u128, byte: &u8| (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    text.as_bytes().iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, step)
}

/// The library of a unit, compiled unless it is there.
fn build(kernel: &Kernel, unit: &str) -> Result<PathBuf, String> {
    static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let (compiler, flags, folder) = (compiler()?, flags(), folder());
    let name = kernel.family.name();
    let library = folder.join(format!("{name}-{:032x}.so", fingerprint(&format!("{compiler} {flags:?}\n{unit}"))));
    if library.exists() {
        return Ok(library);
    }
    let explain = |error: std::io::Error| format!("{}: {error}", folder.display());
    std::fs::create_dir_all(&folder).map_err(explain)?;
    // Under a name of its own first: other processes may be at the same file.
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let own = folder.join(format!("{name}-{}-{number}", std::process::id()));
    let (source, object) = (own.with_extension("cpp"), own.with_extension("tmp"));
    std::fs::write(&source, unit).map_err(explain)?;
    let output =
        Command::new(compiler).args(&flags).arg(&source).arg("-o").arg(&object).arg("-lm").output().map_err(explain)?;
    if !output.status.success() {
        return Err(format!("{compiler} refuses {name}.cu:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    std::fs::remove_file(&source).map_err(explain)?;
    std::fs::rename(&object, &library).map_err(explain)?;
    Ok(library)
}
