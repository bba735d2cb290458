//! Fake libraries, built by the system's C compiler, each test with copies of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use libloading::Library;
use tempfile::TempDir;

use super::super::error::CudaError;
use super::super::libraries::open_driver_in;
use super::super::search::{Place, Surroundings};
use super::super::{NvidiaDriver, NvidiaSettings};

const HEADER: &str = include_str!("fake.h");
const SOURCES: [(&str, &str); 4] = [
    ("cuda", include_str!("fake_cuda.c")),
    ("nvrtc", include_str!("fake_nvrtc.c")),
    ("cublaslt", include_str!("fake_cublaslt.c")),
    ("cudnn", include_str!("fake_cudnn.c")),
];

/// The libraries, compiled once a process.
fn compiled() -> &'static Path {
    static COMPILED: OnceLock<TempDir> = OnceLock::new();
    COMPILED
        .get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("fake.h"), HEADER).unwrap();
            for (name, source) in SOURCES {
                build(dir.path(), name, source);
            }
            dir
        })
        .path()
}

/// Compiles a C text to `NAME.so`.
pub(super) fn build(dir: &Path, name: &str, source: &str) -> PathBuf {
    let (text, library) = (dir.join(format!("{name}.c")), dir.join(format!("{name}.so")));
    std::fs::write(&text, source).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-shared", "-fPIC", "-w", "-o"]).arg(&library).arg(&text).arg("-lm");
    let output = compiler.output().expect("a C compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library
}

/// A copy of a library at a path, loaded.
fn install(name: &str, path: &Path) -> Library {
    std::fs::copy(compiled().join(format!("{name}.so")), path).unwrap();
    // SAFETY: our own library, without initialisers.
    unsafe { Library::new(path) }.unwrap()
}

/// A machine with a fake GPU.
pub(super) struct Machine {
    dir: TempDir,
    cuda: Library,
    nvrtc: Library,
    cublaslt: Library,
    /// Where a test has installed it.
    cudnn: Option<Library>,
}

impl Machine {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let wheels = dir.path().join("cache/libraries/nvidia/fake/lib");
        for folder in [&wheels, &dir.path().join("driver")] {
            std::fs::create_dir_all(folder).unwrap();
        }
        Machine {
            cudnn: None,
            cuda: install("cuda", &dir.path().join("driver/libcuda.so.1")),
            nvrtc: install("nvrtc", &wheels.join("libnvrtc.so.12")),
            cublaslt: install("cublaslt", &wheels.join("libcublasLt.so.12")),
            dir,
        }
    }

    /// The same with a GPU of Hopper's and with cuDNN.
    pub(super) fn with_cudnn() -> Self {
        let mut machine = Self::new();
        let path = machine.path("cache/libraries/nvidia/cudnn/lib");
        std::fs::create_dir_all(&path).unwrap();
        machine.cudnn = Some(install("cudnn", &path.join("libcudnn.so.9")));
        machine.set("cuda", "fake_major", 9);
        machine.set("cuda", "fake_minor", 0);
        machine
    }

    /// A folder of the machine.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub(super) fn surroundings(&self) -> Surroundings {
        let cache = self.path("cache");
        Surroundings {
            variable: Box::new(move |name| (name == "CASALLM_CACHE").then(|| cache.clone().into())),
            root: self.dir.path().to_owned(),
        }
    }

    pub(super) fn open(&self) -> Result<NvidiaDriver, CudaError> {
        self.open_with(NvidiaSettings::default())
    }

    pub(super) fn open_with(&self, settings: NvidiaSettings) -> Result<NvidiaDriver, CudaError> {
        let surroundings = self.surroundings();
        let library = open_driver_in(&surroundings, &[Place::Folder(self.path("driver"))])?;
        NvidiaDriver::with_driver(library, settings, &surroundings)
    }

    fn library(&self, name: &str) -> &Library {
        match name {
            "cuda" => &self.cuda,
            "nvrtc" => &self.nvrtc,
            "cudnn" => self.cudnn.as_ref().expect("a machine with cuDNN"),
            _ => &self.cublaslt,
        }
    }

    /// Sets a variable of a fake.
    pub(super) fn set<T>(&self, library: &str, name: &str, value: T) {
        // SAFETY: the tests name variables by their C types, and use a machine on one thread at a time.
        unsafe { **self.library(library).get::<*mut T>(name).unwrap() = value };
    }

    /// Reads a variable of a fake.
    pub(super) fn get<T: Copy>(&self, library: &str, name: &str) -> T {
        // SAFETY: as above.
        unsafe { **self.library(library).get::<*mut T>(name).unwrap() }
    }

    /// Nothing is left of a driver that is gone.
    pub(super) fn assert_empty(&self) {
        self.assert_ended();
        for name in ["fake_used", "fake_pinned"] {
            assert_eq!(self.get::<usize>("cuda", name), 0, "{name}");
        }
    }

    /// The same but for memory.
    pub(super) fn assert_ended(&self) {
        for (library, name) in [("cuda", "fake_alive"), ("cublaslt", "fake_alive")] {
            assert_eq!(self.get::<i32>(library, name), 0, "{library} {name}");
        }
        if self.cudnn.is_some() {
            assert_eq!(self.get::<i32>("cudnn", "fake_alive"), 0, "cudnn fake_alive");
        }
    }
}
