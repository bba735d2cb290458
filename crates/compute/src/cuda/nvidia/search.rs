//! Where NVIDIA's libraries may lie: the linker's path, the toolkit, and Python environments, which most machines that
//! train already have. Nothing is run for that; folders are read.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Environment variables by name.
pub type Variables = Box<dyn Fn(&str) -> Option<OsString> + Send + Sync>;

/// What the search depends on, so that a test can make one up.
pub struct Surroundings {
    /// Environment variables.
    pub variable: Variables,
    /// What absolute paths of the system start from: `/`.
    pub root: PathBuf,
}

impl Surroundings {
    /// This process's.
    pub fn here() -> Self {
        Surroundings { variable: Box::new(|name| std::env::var_os(name)), root: PathBuf::from("/") }
    }

    /// A variable that names a folder; empty ones do not count.
    fn folder(&self, name: &str) -> Option<PathBuf> {
        (self.variable)(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// The folders of a variable like `PATH`.
    fn folders(&self, name: &str) -> Vec<PathBuf> {
        let value = (self.variable)(name).unwrap_or_default();
        std::env::split_paths(&value).filter(|path| !path.as_os_str().is_empty()).collect()
    }

    /// A folder of the system.
    pub fn system(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Where compiled kernels and the choices of matrix algorithms are kept: `CASALLM_CACHE`, else the user's cache folder.
    pub fn cache(&self) -> Option<PathBuf> {
        self.folder("CASALLM_CACHE").or_else(|| {
            let base = self.folder("XDG_CACHE_HOME").or_else(|| Some(self.folder("HOME")?.join(".cache")))?;
            Some(base.join("casallm"))
        })
    }

    /// Where the command that our messages give puts libraries: it works in any state of the system's Python.
    pub fn own_libraries(&self) -> Option<PathBuf> {
        Some(self.cache()?.join("libraries"))
    }
}

/// One place of the search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Whatever the system's linker finds, `LD_LIBRARY_PATH` included.
    Linker,
    /// A folder.
    Folder(PathBuf),
}

impl Place {
    /// What to open for a file's name: a bare name is left to the linker.
    pub fn file(&self, name: &str) -> PathBuf {
        match self {
            Place::Linker => PathBuf::from(name),
            Place::Folder(folder) => folder.join(name),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Linker => f.write_str("the system's linker path"),
            Place::Folder(folder) => write!(f, "{}", folder.display()),
        }
    }
}

/// Where the driver's library may be: it comes with the system, never from a toolkit or from Python.
pub fn driver_places(surroundings: &Surroundings) -> Vec<Place> {
    let mut places = vec![Place::Linker];
    for folder in [
        "/usr/lib/wsl/lib", // Windows' driver inside WSL
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib64/nvidia",
        "/usr/lib/nvidia",
        "/run/opengl-driver/lib", // NixOS
    ] {
        push(&mut places, surroundings.system(folder));
    }
    places
}

/// Where the toolkit's libraries may be, what a person has named first.
pub fn toolkit_places(surroundings: &Surroundings) -> Vec<Place> {
    let mut places = Vec::new();
    if let Some(own) = surroundings.own_libraries() {
        wheels(&mut places, &own);
    }
    for folder in surroundings.folders("LD_LIBRARY_PATH") {
        push(&mut places, folder);
    }
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        if let Some(toolkit) = surroundings.folder(variable) {
            push(&mut places, toolkit.join("lib64"));
            push(&mut places, toolkit.join("lib"));
        }
    }
    for variable in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        if let Some(prefix) = surroundings.folder(variable) {
            push(&mut places, prefix.join("lib"));
            python(&mut places, &prefix);
        }
    }
    places.push(Place::Linker);
    // The newest first, by the numbers in the name: cuda-13.1 before cuda-12.8 before cuda.
    let mut toolkits = matching(&surroundings.system("/usr/local"), "cuda");
    toolkits.sort_by_key(|path| std::cmp::Reverse(numbers(path)));
    toolkits.push(surroundings.system("/opt/cuda"));
    for toolkit in toolkits {
        push(&mut places, toolkit.join("lib64"));
    }
    if let Some(home) = surroundings.folder("HOME") {
        python(&mut places, &home.join(".local"));
    }
    for bin in surroundings.folders("PATH") {
        let Some(prefix) = bin.parent() else { continue };
        python(&mut places, prefix);
        // pyenv's `shims` stand beside the versions; a linked interpreter belongs to the prefix it points to.
        for version in matching(&prefix.join("versions"), "") {
            python(&mut places, &version);
        }
        let linked = std::fs::canonicalize(bin.join("python3")).ok();
        if let Some(prefix) = linked.as_deref().and_then(Path::parent).and_then(Path::parent) {
            python(&mut places, prefix);
        }
    }
    places
}

/// Adds a folder that exists, once.
fn push(places: &mut Vec<Place>, folder: PathBuf) {
    let place = Place::Folder(folder);
    if let Place::Folder(folder) = &place
        && folder.is_dir()
        && !places.contains(&place)
    {
        places.push(place);
    }
}

/// Adds the library folders of the wheels that a Python prefix has: `lib/python3.12/site-packages/nvidia/cu13/lib`.
fn python(places: &mut Vec<Place>, prefix: &Path) {
    for version in matching(&prefix.join("lib"), "python3") {
        for packages in ["site-packages", "dist-packages"] {
            wheels(places, &version.join(packages));
        }
    }
}

/// Adds `nvidia/*/lib` of a folder of packages.
fn wheels(places: &mut Vec<Place>, packages: &Path) {
    for package in matching(&packages.join("nvidia"), "") {
        push(places, package.join("lib"));
    }
}

/// The folder's entries whose names start so, in the order of their names.
fn matching(folder: &Path, start: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start));
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(named).collect();
    paths.sort();
    paths
}

/// The numbers in a path's last part.
fn numbers(path: &Path) -> Vec<u32> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// Whether this is Linux inside Windows.
fn is_wsl(surroundings: &Surroundings) -> bool {
    surroundings.system("/usr/lib/wsl").is_dir()
}

/// Whether a card of NVIDIA's is on the PCI bus; `None` where the system does not say: under WSL the card is Windows', and
/// its bus shows none.
pub fn card_on_bus(surroundings: &Surroundings) -> Option<bool> {
    if is_wsl(surroundings) {
        return None;
    }
    let devices = std::fs::read_dir(surroundings.system("/sys/bus/pci/devices")).ok()?;
    Some(devices.flatten().any(|device| {
        std::fs::read_to_string(device.path().join("vendor")).is_ok_and(|vendor| vendor.trim() == "0x10de")
    }))
}

/// The command that installs NVIDIA's driver here.
pub fn driver_remedy(surroundings: &Surroundings) -> String {
    if is_wsl(surroundings) {
        return "install NVIDIA's driver in Windows (nvidia.com/drivers), then `wsl --shutdown`".to_owned();
    }
    if surroundings.system("/.dockerenv").exists() {
        return "start the container with `docker run --gpus all` (nvidia-container-toolkit on the host)".to_owned();
    }
    let release = std::fs::read_to_string(surroundings.system("/etc/os-release")).unwrap_or_default();
    let field = |name: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim_matches('"').to_owned()
    };
    let family = format!("{} {}", field("ID="), field("ID_LIKE="));
    for (distribution, command) in [
        ("ubuntu", "sudo ubuntu-drivers install"),
        ("debian", "sudo apt install nvidia-driver (component non-free), then restart"),
        ("fedora", "sudo dnf install akmod-nvidia xorg-x11-drv-nvidia-cuda (from RPM Fusion), then restart"),
        ("arch", "sudo pacman -S nvidia-open, then restart"),
        ("suse", "sudo zypper install nvidia-open-driver-G06-signed-kmp-meta, then restart"),
    ] {
        if family.split_whitespace().any(|name| name.contains(distribution)) {
            return command.to_owned();
        }
    }
    "NVIDIA's driver for this system from nvidia.com/drivers".to_owned()
}

/// The command that installs the toolkit's libraries for a driver of this CUDA version. `--target` works with and without
/// a virtual environment, also where the system's Python refuses packages.
pub fn toolkit_remedy(surroundings: &Surroundings, cuda_major: u32) -> String {
    let packages = match cuda_major {
        12 => "nvidia-cublas-cu12 nvidia-cuda-nvrtc-cu12",
        _ => "nvidia-cublas nvidia-cuda-nvrtc",
    };
    install(surroundings, packages)
}

/// The command that puts packages where they are looked for. Without a home, as services of the system are, there is no such
/// place until one is named.
fn install(surroundings: &Surroundings, packages: &str) -> String {
    match surroundings.own_libraries() {
        Some(folder) => format!("pip install --target \"{}\" {packages}", folder.display()),
        None => format!(
            "set CASALLM_CACHE to a folder (there is no HOME), then pip install --target \"$CASALLM_CACHE/libraries\" {packages}"
        ),
    }
}

/// The command that installs cuDNN, which is optional, for a driver of this CUDA version.
pub fn cudnn_remedy(surroundings: &Surroundings, cuda_major: u32) -> String {
    install(surroundings, &format!("nvidia-cudnn-cu{cuda_major}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Surroundings whose every folder is in `root`.
    fn made_up(root: &Path, variables: &[(&str, String)]) -> Surroundings {
        let variables: HashMap<String, String> = variables.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        Surroundings { variable: Box::new(move |name| variables.get(name).map(OsString::from)), root: root.to_owned() }
    }

    fn at(root: &Path, path: &str) -> String {
        root.join(path).to_str().unwrap().to_owned()
    }

    #[test]
    fn every_layout_is_found_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let expected = [
            "cache/libraries/nvidia/cu13/lib",
            "named",
            "toolkit/lib64",
            "venv/lib",
            "venv/lib/python3.12/site-packages/nvidia/cublas/lib",
            "venv/lib/python3.12/site-packages/nvidia/cuda_nvrtc/lib",
            "LINKER",
            "usr/local/cuda-13.1/lib64",
            "usr/local/cuda-12.10/lib64",
            "usr/local/cuda-12.8/lib64",
            "usr/local/cuda/lib64",
            "home/.local/lib/python3.11/site-packages/nvidia/cu13/lib",
            "usr/lib/python3/dist-packages/nvidia/cu13/lib",
            "home/.pyenv/versions/3.13.1/lib/python3.13/site-packages/nvidia/cu13/lib",
            "opt/conda/lib/python3.14/site-packages/nvidia/cu13/lib",
        ];
        for folder in expected {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        for folder in ["links", "opt/conda/bin"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::fs::write(root.join("opt/conda/bin/python3.14"), "").unwrap();
        std::os::unix::fs::symlink(root.join("opt/conda/bin/python3.14"), root.join("links/python3")).unwrap();
        let path = ["usr/bin", "home/.pyenv/shims", "links", "nowhere"].map(|p| at(root, p)).join(":");
        let surroundings = made_up(
            root,
            &[
                ("CASALLM_CACHE", at(root, "cache")),
                ("LD_LIBRARY_PATH", format!("{}::{}", at(root, "named"), at(root, "absent"))),
                ("CUDA_HOME", at(root, "toolkit")),
                ("VIRTUAL_ENV", at(root, "venv")),
                ("CONDA_PREFIX", String::new()),
                ("HOME", at(root, "home")),
                ("PATH", path),
            ],
        );
        let got: Vec<String> = toolkit_places(&surroundings)
            .iter()
            .map(|place| match place {
                Place::Linker => "LINKER".to_owned(),
                Place::Folder(folder) => folder.strip_prefix(root).unwrap().to_str().unwrap().to_owned(),
            })
            .collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn the_cache_is_where_it_is_said_to_be() {
        let root = Path::new("/nowhere");
        let cache = |variables: &[(&str, &str)]| {
            let owned: Vec<(&str, String)> = variables.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
            made_up(root, &owned).cache()
        };
        assert_eq!(cache(&[("CASALLM_CACHE", "/c"), ("HOME", "/h")]), Some("/c".into()));
        assert_eq!(cache(&[("CASALLM_CACHE", ""), ("XDG_CACHE_HOME", "/x")]), Some("/x/casallm".into()));
        assert_eq!(cache(&[("HOME", "/h")]), Some("/h/.cache/casallm".into()));
        assert_eq!(cache(&[]), None);
    }

    #[test]
    fn a_remedy_is_one_command_of_this_system() {
        let dir = tempfile::tempdir().unwrap();
        let surroundings = made_up(dir.path(), &[("CASALLM_CACHE", "/c".to_owned())]);
        assert!(driver_remedy(&surroundings).contains("nvidia.com/drivers"));
        std::fs::create_dir_all(dir.path().join("etc")).unwrap();
        for (release, command) in [
            ("ID=ubuntu\nID_LIKE=debian\n", "ubuntu-drivers"),
            ("NAME=x\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", "ubuntu-drivers"),
            ("ID=debian\n", "apt install nvidia-driver"),
            ("ID=\"opensuse-leap\"\n", "zypper"),
            ("ID=arch\n", "pacman"),
        ] {
            std::fs::write(dir.path().join("etc/os-release"), release).unwrap();
            assert!(driver_remedy(&surroundings).contains(command), "{release}: {}", driver_remedy(&surroundings));
        }
        std::fs::write(dir.path().join(".dockerenv"), "").unwrap();
        assert!(driver_remedy(&surroundings).contains("--gpus all"));
        assert_eq!(
            toolkit_remedy(&surroundings, 12),
            "pip install --target \"/c/libraries\" nvidia-cublas-cu12 nvidia-cuda-nvrtc-cu12"
        );
        assert!(toolkit_remedy(&surroundings, 13).ends_with(" nvidia-cublas nvidia-cuda-nvrtc"));
        // Where nothing says whose the process is, a folder beside it would never be looked in.
        let homeless = made_up(dir.path(), &[]);
        for remedy in [toolkit_remedy(&homeless, 13), cudnn_remedy(&homeless, 13)] {
            assert!(
                remedy.contains("\"$CASALLM_CACHE/libraries\"") && remedy.contains("set CASALLM_CACHE"),
                "{remedy}"
            );
        }
    }

    #[test]
    fn a_card_is_told_by_its_vendor() {
        let dir = tempfile::tempdir().unwrap();
        let surroundings = made_up(dir.path(), &[]);
        assert_eq!(card_on_bus(&surroundings), None);
        let device = |name: &str, vendor: &str| {
            let folder = dir.path().join("sys/bus/pci/devices").join(name);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("vendor"), vendor).unwrap();
        };
        device("0000:00:02.0", "0x8086\n");
        assert_eq!(card_on_bus(&surroundings), Some(false));
        device("0000:01:00.0", "0x10de\n");
        assert_eq!(card_on_bus(&surroundings), Some(true));
        // Windows shows its Linux a card of Microsoft's, whatever there is.
        std::fs::remove_dir_all(dir.path().join("sys/bus/pci/devices/0000:01:00.0")).unwrap();
        device("5582:00:00.0", "0x1414\n");
        std::fs::create_dir_all(dir.path().join("usr/lib/wsl")).unwrap();
        assert_eq!(card_on_bus(&surroundings), None);
    }
}
