//! What the CUDA device asks of the world: memory, launches, matrix products and errors, behind the [`Driver`] trait.
//!
//! Two things implement it: NVIDIA's driver with its libraries, and a simulator on the processor that runs the same
//! kernels in tests. Everything above, `CudaDevice` and the host side of every kernel, is written against the trait and
//! cannot tell them apart. Work is ordered on one stream. Calls that start work return nothing: the first error is kept,
//! every call after it does nothing, and [`Driver::check`] tells.

use super::attention::{Backward, Forward};
use super::calls::Calls;
use super::kernels::Family;
use crate::device::{AttentionShape, DeviceInfo, Sensors};
use crate::dtype::DType;
use crate::error::ComputeError;
use crate::fp8::Fp8;

/// An address in the device's memory (the simulator's is the host's).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(pub u64);

impl Address {
    /// No memory: what a kernel gets for an optional operand that is absent.
    pub const NULL: Address = Address(0);

    /// The address of `bytes` further on.
    pub fn offset(self, bytes: usize) -> Address {
        Address(self.0 + bytes as u64)
    }
}

/// An entry of a family of kernels, as compiled for a storage type and some integers.
///
/// (family, storage, defines) names a module: a text that is compiled once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// The file.
    pub family: Family,
    /// What the type `S` is in it: f32 or bf16. `None` where the file does not use `S`.
    pub storage: Option<DType>,
    /// Integers that the text sees as macros, such as `HEAD_DIM`.
    pub defines: &'static [(&'static str, u32)],
    /// The function.
    pub entry: &'static str,
}

/// How many blocks of how many threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks along x, y and z; none of them 0.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z; at most what the kernel's `__launch_bounds__` says.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block; at most [`Driver::shared_memory_limit`].
    pub shared_bytes: u32,
}

impl Launch {
    /// `blocks` blocks of `threads` threads, without shared memory.
    pub fn linear(blocks: u32, threads: u32) -> Launch {
        Launch { grid: [blocks, 1, 1], block: [threads, 1, 1], shared_bytes: 0 }
    }

    /// The same with dynamic shared memory.
    pub fn with_shared(self, bytes: u32) -> Launch {
        Launch { shared_bytes: bytes, ..self }
    }
}

/// One argument of a kernel, of the type that the C signature has at its place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// Any pointer.
    Pointer(Address),
    /// `u32`.
    U32(u32),
    /// `i32`.
    I32(i32),
    /// `u64`.
    U64(u64),
    /// `float`.
    F32(f32),
}

impl From<Address> for Argument {
    fn from(address: Address) -> Self {
        Argument::Pointer(address)
    }
}

impl From<u32> for Argument {
    fn from(value: u32) -> Self {
        Argument::U32(value)
    }
}

impl From<i32> for Argument {
    fn from(value: i32) -> Self {
        Argument::I32(value)
    }
}

impl From<u64> for Argument {
    fn from(value: u64) -> Self {
        Argument::U64(value)
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Argument::F32(value)
    }
}

/// A matrix of a product, row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Of the first element.
    pub address: Address,
    /// f32 or bf16.
    pub dtype: DType,
    /// Whether the matrix lies in memory transposed.
    pub transposed: bool,
    /// Elements from one row in memory to the next.
    pub row_stride: usize,
}

/// `c = beta c + a b (+ bias)`, accumulated in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matmul {
    /// Rows of `a` and `c`.
    pub m: usize,
    /// Columns of `b` and `c`.
    pub n: usize,
    /// Columns of `a`, rows of `b`.
    pub k: usize,
    /// `[m, k]`, or in memory `[k, m]` when transposed.
    pub a: Operand,
    /// `[k, n]`, or in memory `[n, k]` when transposed.
    pub b: Operand,
    /// `[m, n]`, never transposed.
    pub c: Operand,
    /// 0 (what `c` held is not read) or 1.
    pub beta: f32,
    /// f32 `[n]`, added to every row. Where the result is bf16 it is rounded to bf16 first, on every GPU.
    pub bias: Option<Address>,
}

/// A matrix of 8-bit codes, row-major without gaps; each code times `scale` is an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fp8Operand {
    /// Of the first code.
    pub address: Address,
    /// What a code means.
    pub format: Fp8,
    /// One f32 on the device.
    pub scale: Address,
}

/// `c = beta c + a bᵀ (+ bias)` of 8-bit operands, accumulated in f32: the one layout in which every GPU has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fp8Matmul {
    /// Rows of `a` and `c`.
    pub m: usize,
    /// Rows of `b`, columns of `c`; a multiple of 16.
    pub n: usize,
    /// Columns of `a` and `b`; a multiple of 16.
    pub k: usize,
    /// `[m, k]`.
    pub a: Fp8Operand,
    /// `[n, k]`; not of the same format as `a` if that is E5M2.
    pub b: Fp8Operand,
    /// `[m, n]`, f32 or bf16, never transposed.
    pub c: Operand,
    /// 0 (what `c` held is not read) or 1.
    pub beta: f32,
    /// f32 `[n]`, added to every row; it is rounded to bf16 first.
    pub bias: Option<Address>,
}

/// Attention of sequences of one length, one behind the other from row 0, each causally over itself; all operands bf16. What
/// a library may compute in place of our kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    /// Heads; their width is 64 or 128.
    pub shape: AttentionShape,
    /// How many sequences.
    pub sequences: usize,
    /// Tokens of each; a multiple of 128.
    pub length: usize,
    /// Where everything is.
    pub pass: AttentionPass,
    /// Scratch for it.
    pub scratch: Address,
    /// Its length, at least [`Driver::attention_scratch`].
    pub scratch_bytes: usize,
}

/// Which way, with the operands of that way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionPass {
    /// With log-sum-exps.
    Forward(Forward),
    /// The gradients.
    Backward(Backward),
}

/// Bytes on their way to the host, see [`Driver::post`].
#[derive(Debug, PartialEq, Eq)]
pub struct Post(pub u64);

/// Most bytes of a post.
pub const MOST_POSTED: usize = 256;

/// A GPU, or what stands in for one.
pub trait Driver: Send + Sync {
    /// The GPU's name; its architecture such as `sm_89` as the instruction set; 1 thread.
    fn info(&self) -> DeviceInfo;
    /// Streaming multiprocessors: how many blocks are in flight at least.
    fn multiprocessors(&self) -> usize;
    /// Bytes of shared memory that a block may have.
    fn shared_memory_limit(&self) -> usize;
    /// Bytes that can still be allocated, if known.
    fn available_bytes(&self) -> Option<u64>;
    /// Load, heat, power and memory at this moment, as far as they are known.
    fn sensors(&self) -> Option<Sensors> {
        None
    }
    /// Zeroed memory, aligned to 256 bytes.
    ///
    /// # Errors
    /// The memory cannot be had, or an earlier call failed.
    fn allocate(&self, bytes: usize) -> Result<Address, ComputeError>;
    /// Gives memory back; `bytes` as it was allocated. What was started before may still use it.
    fn free(&self, at: Address, bytes: usize);
    /// Zeroed memory of the host that kernels reach by its address, through the bus; copies and kernels take it as they take
    /// the device's own.
    ///
    /// # Errors
    /// The memory cannot be locked, or an earlier call failed.
    fn allocate_host(&self, bytes: usize) -> Result<Address, ComputeError>;
    /// Gives such memory back; `bytes` as it was allocated. What was started before may still use it.
    fn free_host(&self, at: Address, bytes: usize);
    /// Copies from the host; the bytes may change once the call returns.
    fn upload(&self, to: Address, bytes: &[u8]);
    /// Copies to the host, after everything before; waits.
    fn download(&self, from: Address, bytes: &mut [u8]);
    /// Starts copying up to [`MOST_POSTED`] bytes to the host, after everything before; waits for nothing.
    fn post(&self, from: Address, bytes: usize) -> Post;
    /// What a post brought: waits for it, and for nothing that was started after it. Leaves `bytes`, as many as were
    /// posted, as they are after an error.
    fn collect(&self, post: Post, bytes: &mut [u8]);
    /// Copies on the device; the ranges must not overlap.
    fn copy(&self, from: Address, to: Address, bytes: usize);
    /// Sets bytes to zero.
    fn zero(&self, at: Address, bytes: usize);
    /// Starts a kernel; arguments in the order of its signature.
    fn launch(&self, kernel: Kernel, launch: Launch, arguments: &[Argument]);
    /// Starts a matrix product.
    fn matmul(&self, matmul: &Matmul);
    /// Starts a product without bias that also writes the sum of each row of `a`, f32 `[m]`, to `sums`, overwriting. Where
    /// there is no such product nothing is started, and the result is false: a function of shapes, types and alignments.
    fn matmul_with_row_sums(&self, matmul: &Matmul, sums: Address) -> bool;
    /// Whether there is such a product; `None` where only starting it tells, because it has not been met before.
    fn knows_row_sums(&self, matmul: &Matmul) -> Option<bool>;
    /// Whether there are products of 8-bit floating-point numbers: from compute capability 8.9 on.
    fn has_fp8(&self) -> bool;
    /// Starts one.
    fn matmul_fp8(&self, matmul: &Fp8Matmul);
    /// Bytes of scratch that a library's attention takes for so many tokens; 0 where there is no library that might do it.
    fn attention_scratch(&self, _shape: AttentionShape, _tokens: usize) -> usize {
        0
    }
    /// Whether a library computes this attention, and not our kernels: a function of sizes, remembered on this machine.
    /// `None` where only [`Driver::choose_attention`] tells, because it has not been met before.
    fn knows_attention(&self, _attention: &Attention) -> Option<bool> {
        Some(false)
    }
    /// Computes attention in one of two ways, a library's or `ours`, which starts our kernels on the same operands, and
    /// remembers which. Waits.
    fn choose_attention(&self, _attention: &Attention, ours: &dyn Fn()) {
        ours();
    }
    /// Starts a library's attention, where [`Driver::knows_attention`] says that it is one's.
    fn attention(&self, attention: &Attention) {
        panic!("no library computes {attention:?}");
    }
    /// Something that a person should know, once.
    fn take_note(&self) -> Option<String> {
        None
    }
    /// Waits for everything started.
    fn synchronize(&self);
    /// The first error since the start, if any. Does not wait: what has not failed yet is not known.
    ///
    /// # Errors
    /// That error, at every call from then on.
    fn check(&self) -> Result<(), ComputeError>;
}

/// Work that [`GraphDriver::build`] has put together.
#[derive(Debug, PartialEq, Eq)]
pub struct Graph(pub u64);

/// A [`Driver`] that can start many calls as one.
pub trait GraphDriver: Driver {
    /// Makes a graph of calls, none of them an upload; starts nothing. `None` where it cannot be made at this moment,
    /// because something would have to be tried or waited for first: the calls are to be made one by one this time.
    ///
    /// # Errors
    /// Why there can be no graphs here. Nothing else is affected: it is not an error of the driver's.
    fn build(&self, calls: &Calls) -> Result<Option<Graph>, String>;
    /// Gives launch `i` of a graph's calls other arguments from its next start on.
    ///
    /// # Errors
    /// Why that is not possible; the graph can no longer be used.
    fn change(&self, graph: &Graph, i: usize, arguments: &[Argument]) -> Result<(), String>;
    /// Starts all of a graph's calls, in the order of everything else.
    fn start(&self, graph: &Graph);
    /// Gives a graph back; starts that are under way are not affected.
    fn discard(&self, graph: Graph);
}
