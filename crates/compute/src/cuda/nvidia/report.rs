//! What the assembler reports of each kernel, read from the compiler's log; see [`super::compiler::Compiler::compile`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::cache::{KernelCache, key};
use super::compiler::{Compiler, Target};
use super::error::CudaError;
use crate::cuda::driver::Kernel;

/// What one kernel needs on one architecture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes a thread writes to memory and reads again because registers do not suffice.
    pub spilled: u32,
    /// Bytes of static shared memory of a block.
    pub shared: u32,
    /// Bytes of a thread's stack, spills included.
    pub stack: u32,
}

/// `40`, or with what a kernel should not need: `40 spilled=16 stack=200`.
impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.registers)?;
        for (name, bytes) in [("spilled", self.spilled), ("shared", self.shared), ("stack", self.stack)] {
            if bytes > 0 {
                write!(f, " {name}={bytes}")?;
            }
        }
        Ok(())
    }
}

/// A name for everything that the machine code of a module for these targets is a function of: text, options, compiler.
pub fn text_key(compiler: &Compiler, module: &Kernel, targets: &[Target]) -> String {
    let inputs: Vec<String> = targets.iter().map(|target| compiler.inputs(module, target)).collect();
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    super::cache::key(&inputs)[..16].to_owned()
}

/// What the compiler says of a module: from `folder`, where it was compiled before, or by compiling it.
///
/// # Errors
/// The compiler's own.
pub fn log(compiler: &Compiler, module: &Kernel, target: &Target, folder: PathBuf) -> Result<String, CudaError> {
    let cache = KernelCache::new(Some(folder));
    let key = key(&[&compiler.inputs(module, target)]);
    if let Some(log) = cache.read(&key) {
        return Ok(String::from_utf8_lossy(&log).into_owned());
    }
    let log = compiler.compile(module, target, true)?.log;
    cache.write(&key, log.as_bytes());
    Ok(log)
}

/// The needs of every kernel in a log: a line that names it, one with stack and spills, one with registers and memory.
pub fn needs(log: &str) -> BTreeMap<String, Needs> {
    let mut kernels: BTreeMap<String, Needs> = BTreeMap::new();
    let mut name = String::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            name = rest.split('\'').next().unwrap_or_default().to_owned();
            kernels.insert(name.clone(), Needs::default());
        }
        let Some(needs) = kernels.get_mut(&name) else { continue };
        let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        for (i, word) in words.iter().enumerate() {
            let Ok(number) = word.parse::<u32>() else { continue };
            match words[i + 1..] {
                ["registers", ..] => needs.registers = number,
                ["bytes", "stack", "frame", ..] => needs.stack = number,
                ["bytes", "spill", "stores" | "loads", ..] => needs.spilled += number,
                ["bytes", "smem", ..] => needs.shared = number,
                _ => {}
            }
        }
    }
    kernels
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As NVRTC 13.5 and 12.9 write it.
    const LOG: &str = "\
ptxas warning : Registers are spilled to local memory in function 'f', 4864 bytes spill stores, 5936 bytes spill loads
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'f' for 'sm_100a'
ptxas info    : Function properties for f
ptxas         .     4992 bytes stack frame, 4864 bytes spill stores, 5936 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 4992 bytes cumulative stack size
ptxas info    : Compile time = 192.232 ms
ptxas info    : Compiling entry function 'g' for 'sm_80'
ptxas info    : Function properties for g
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 1024 bytes smem, 364 bytes cmem[0]
ptxas info    : Compiling entry function 'h' for 'sm_80'
ptxas info    : Used 12 registers";

    #[test]
    fn a_report_is_read_kernel_by_kernel() {
        let needs = needs(LOG);
        assert_eq!(needs.len(), 3);
        assert_eq!(needs["f"], Needs { registers: 32, spilled: 10_800, shared: 0, stack: 4992 });
        assert_eq!(needs["f"].to_string(), "32 spilled=10800 stack=4992");
        assert_eq!(needs["g"], Needs { registers: 40, shared: 1024, ..Needs::default() });
        assert_eq!(needs["h"].to_string(), "12");
    }
}
