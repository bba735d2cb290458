//! A tile unit in software, so that the machine code of the AMX kernels is tested where there is no AMX.
//!
//! A tile instruction that the processor lacks raises SIGILL. The handler decodes it, does what Intel's manual says
//! on the thread's software tiles, and continues behind it. What the manual makes a fault (no configuration, wrong
//! shapes, a bad palette) ends the process with a message: a wrong kernel cannot pass. Where there is AMX, nothing is
//! installed and the processor itself is tested.

use core::ffi::{c_int, c_void};
use std::cell::{Cell, UnsafeCell};
use std::sync::OnceLock;

use crate::cpu::isa::Isa;

/// Every level this machine can run, with AMX emulated if need be (it takes AVX-512-BF16 and Linux).
pub(crate) fn isas() -> Vec<Isa> {
    let mut isas = Isa::available();
    if !Isa::Amx.is_available() {
        if install() {
            isas.push(Isa::Amx);
        } else {
            println!("skipped: AMX, neither here nor emulated (needs AVX-512-BF16 and Linux)");
        }
    }
    isas
}

/// Makes tile instructions work; whether they do.
pub(crate) fn install() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    *WORKS.get_or_init(|| {
        if super::is_available() {
            return true;
        }
        if !Isa::Avx512Bf16.is_available() {
            return false;
        }
        // SAFETY: a valid sigaction whose handler touches only its own thread's tiles and what the instruction
        // names. Without SA_ONSTACK: the faulting code runs on an ordinary stack, the alternate one is small. With
        // SA_NODEFER: whose turn it is next may leave by switching stacks (the simulator of GPUs).
        unsafe {
            let mut action: libc::sigaction = core::mem::zeroed();
            libc::sigaction(libc::SIGILL, core::ptr::null(), &mut action);
            BEFORE.get_or_init(|| action);
            action = core::mem::zeroed();
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_illegal_instruction;
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
            libc::sigaction(libc::SIGILL, &action, core::ptr::null_mut()) == 0
        }
    })
}

/// Whether the tile unit is emulated here, so that [`products`] and [`in_use`] count.
pub(crate) fn emulated() -> bool {
    install() && !super::is_available()
}

/// Products of tiles that this thread has executed.
pub(crate) fn products() -> usize {
    PRODUCTS.get()
}

/// Whether this thread holds a tile configuration.
pub(crate) fn in_use() -> bool {
    // SAFETY: only this thread's handler writes it, and not while this runs.
    UNIT.with(|unit| unsafe { (*unit.get()).configured })
}

const TILES: usize = 8;
const ROWS: usize = 16;
const ROW_BYTES: usize = 64;

/// A thread's tile unit.
struct Unit {
    configured: bool,
    rows: [usize; TILES],
    row_bytes: [usize; TILES],
    data: [[[u8; ROW_BYTES]; ROWS]; TILES],
}

thread_local! {
    // Constant and without a destructor: no allocation happens inside the signal handler.
    static UNIT: UnsafeCell<Unit> = const {
        UnsafeCell::new(Unit {
            configured: false,
            rows: [0; TILES],
            row_bytes: [0; TILES],
            data: [[[0; ROW_BYTES]; ROWS]; TILES],
        })
    };
    static PRODUCTS: Cell<usize> = const { Cell::new(0) };
}

/// Ends the process: the fault that the processor would have raised.
fn fault(message: &str) -> ! {
    for text in ["AMX emulator: ", message, "\n"] {
        // SAFETY: writing a valid slice to standard error, allowed in a signal handler.
        unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    }
    // SAFETY: allowed in a signal handler.
    unsafe { libc::abort() }
}

/// What was installed before us.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

extern "C" fn on_illegal_instruction(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a ucontext_t to a handler installed with SA_SIGINFO.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let at = registers[libc::REG_RIP as usize] as *const u8;
    // SAFETY: the processor has just tried to execute the byte there.
    let is_vex = unsafe { *at } == 0xc4;
    let before = BEFORE.get().filter(|before| before.sa_flags & libc::SA_SIGINFO != 0);
    if let Some(before) = before.filter(|_| !is_vex) {
        // SAFETY: with SA_SIGINFO an action is a handler of this type.
        let handler = unsafe { core::mem::transmute::<usize, Handler>(before.sa_sigaction) };
        return handler(signal, info, context);
    }
    // SAFETY: the processor has just tried to execute the bytes there.
    let instruction = unsafe { decode(at, registers) };
    UNIT.with(|unit| {
        // SAFETY: the thread's own unit; the handler executes no illegal instruction itself.
        unsafe { (*unit.get()).execute(instruction.operation) }
    });
    registers[libc::REG_RIP as usize] += instruction.length as i64;
}

/// A decoded instruction.
struct Instruction {
    operation: Operation,
    length: usize,
}

enum Operation {
    LoadConfig(*const u8),
    Release,
    Zero(usize),
    Load { tile: usize, address: *const u8, stride: usize },
    Store { tile: usize, address: *mut u8, stride: usize },
    DotBf16 { sum: usize, a: usize, b: usize },
    DotBytes { sum: usize, a: usize, b: usize },
}

/// Where the general registers lie, by their number in an instruction.
const GENERAL: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// The memory operand of an instruction.
struct Address {
    base: usize,
    /// The scaled index register: what tile loads and stores take as stride.
    stride: usize,
    has_sib: bool,
    length: usize,
}

/// # Safety
/// `modrm` points at a readable ModRM byte that names memory, and what follows it.
unsafe fn address(modrm: *const u8, vex_x: usize, vex_b: usize, registers: &[i64; 23]) -> Address {
    let register = |number: usize| registers[GENERAL[number] as usize] as usize;
    // SAFETY: the caller's promise: the instruction's bytes are readable.
    unsafe {
        let (mode, rm) = (*modrm >> 6, usize::from(*modrm & 7));
        let mut length = 1;
        let (mut base, mut stride, has_sib) = (rm, 0, rm == 4);
        if has_sib {
            let sib = *modrm.add(1);
            base = usize::from(sib & 7);
            let index = usize::from(sib >> 3 & 7) | vex_x << 3;
            if index != 4 {
                stride = register(index) << (sib >> 6);
            }
            length = 2;
        }
        let displacement = match mode {
            0 if base == 5 => fault("an address without base register is not emulated"),
            0 => 0,
            1 => {
                length += 1;
                modrm.add(length - 1).cast::<i8>().read() as isize
            }
            _ => {
                length += 4;
                modrm.add(length - 4).cast::<i32>().read_unaligned() as isize
            }
        };
        Address { base: register(base | vex_b << 3).wrapping_add_signed(displacement), stride, has_sib, length }
    }
}

/// # Safety
/// `at` points at an instruction.
unsafe fn decode(at: *const u8, registers: &[i64; 23]) -> Instruction {
    // SAFETY: the caller's promise; each byte is read only once the ones before say that the instruction has it.
    unsafe {
        let not_amx = || -> ! { fault("an illegal instruction that is no tile instruction") };
        // Three-byte VEX, map 0F38, W = 0, 128 bits.
        if *at != 0xc4 || *at.add(1) & 0x1f != 2 || *at.add(2) & 0x84 != 0 {
            not_amx();
        }
        let (vex_x, vex_b) = (usize::from(!*at.add(1) >> 6 & 1), usize::from(!*at.add(1) >> 5 & 1));
        let vvvv = usize::from(!*at.add(2) >> 3 & 15);
        let prefix = *at.add(2) & 3;
        let (opcode, modrm) = (*at.add(3), *at.add(4));
        let (reg, rm, memory) = (usize::from(modrm >> 3 & 7), usize::from(modrm & 7), modrm >> 6 != 3);
        const NONE: u8 = 0;
        const X66: u8 = 1;
        const F3: u8 = 2;
        const F2: u8 = 3;
        let (operation, length) = if memory {
            let address = address(at.add(4), vex_x, vex_b, registers);
            let Address { base, stride, has_sib, length } = address;
            let operation = match (opcode, prefix) {
                (0x49, NONE) if reg == 0 => Operation::LoadConfig(base as *const u8),
                (0x4b, F2 | X66) if has_sib => Operation::Load { tile: reg, address: base as *const u8, stride },
                (0x4b, F3) if has_sib => Operation::Store { tile: reg, address: base as *mut u8, stride },
                _ => not_amx(),
            };
            (operation, length)
        } else {
            let operation = match (opcode, prefix) {
                (0x49, NONE) if modrm == 0xc0 => Operation::Release,
                (0x49, F2) if rm == 0 => Operation::Zero(reg),
                (0x5c, F3) if vvvv < TILES => Operation::DotBf16 { sum: reg, a: rm, b: vvvv },
                (0x5e, F2) if vvvv < TILES => Operation::DotBytes { sum: reg, a: rm, b: vvvv },
                _ => not_amx(),
            };
            (operation, 1)
        };
        Instruction { operation, length: 4 + length }
    }
}

impl Unit {
    /// # Safety
    /// The addresses of the operation are valid, as for the instruction itself.
    unsafe fn execute(&mut self, operation: Operation) {
        if !self.configured && !matches!(operation, Operation::LoadConfig(_) | Operation::Release) {
            fault("a tile instruction without a configuration");
        }
        match operation {
            // SAFETY: 64 bytes, by the caller's promise.
            Operation::LoadConfig(config) => self.configure(unsafe { &*config.cast() }),
            Operation::Release => {
                self.configured = false;
                self.data = [[[0; ROW_BYTES]; ROWS]; TILES];
            }
            Operation::Zero(tile) => {
                self.check(tile);
                self.data[tile] = [[0; ROW_BYTES]; ROWS];
            }
            Operation::Load { tile, address, stride } => {
                self.check(tile);
                self.data[tile] = [[0; ROW_BYTES]; ROWS];
                for row in 0..self.rows[tile] {
                    let to = self.data[tile][row].as_mut_ptr();
                    let from = address.wrapping_add(row.wrapping_mul(stride));
                    // SAFETY: the caller's promise.
                    unsafe { core::ptr::copy_nonoverlapping(from, to, self.row_bytes[tile]) };
                }
            }
            Operation::Store { tile, address, stride } => {
                self.check(tile);
                for row in 0..self.rows[tile] {
                    let to = address.wrapping_add(row.wrapping_mul(stride));
                    // SAFETY: the caller's promise.
                    unsafe { core::ptr::copy_nonoverlapping(self.data[tile][row].as_ptr(), to, self.row_bytes[tile]) };
                }
            }
            Operation::DotBf16 { sum, a, b } => {
                self.check_product(sum, a, b);
                // SAFETY: `install` found AVX-512.
                unsafe { self.dot_bf16(sum, a, b) };
                PRODUCTS.set(PRODUCTS.get() + 1);
            }
            Operation::DotBytes { sum, a, b } => {
                self.check_product(sum, a, b);
                self.dot_bytes(sum, a, b);
                PRODUCTS.set(PRODUCTS.get() + 1);
            }
        }
    }

    /// Faults where the manual has one: products of pairs of bf16 and of four bytes have the same shapes.
    fn check_product(&self, sum: usize, a: usize, b: usize) {
        for tile in [sum, a, b] {
            self.check(tile);
            if !self.row_bytes[tile].is_multiple_of(4) {
                fault("a product of tiles: rows are no whole groups");
            }
        }
        if sum == a || sum == b || a == b {
            fault("a product of tiles: one tile used twice");
        }
        let groups = self.row_bytes[a] / 4;
        if self.rows[sum] != self.rows[a] || self.row_bytes[sum] != self.row_bytes[b] || groups != self.rows[b] {
            fault("a product of tiles: shapes do not match");
        }
    }

    /// `tdpbssd`: signed bytes by signed bytes, four at a time, added in 32 bits that wrap.
    fn dot_bytes(&mut self, sum: usize, a: usize, b: usize) {
        for row in 0..self.rows[sum] {
            for group in 0..self.row_bytes[a] / 4 {
                for column in 0..self.row_bytes[sum] / 4 {
                    let product = |i: usize| {
                        let (x, y) = (self.data[a][row][4 * group + i], self.data[b][group][4 * column + i]);
                        i32::from(x as i8) * i32::from(y as i8)
                    };
                    let products = product(0) + product(1) + product(2) + product(3);
                    let bytes = &mut self.data[sum][row][4 * column..4 * column + 4];
                    let before = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                    bytes.copy_from_slice(&before.wrapping_add(products).to_le_bytes());
                }
            }
        }
    }

    fn check(&self, tile: usize) {
        if self.rows[tile] == 0 {
            fault("a tile that is not in the configuration");
        }
    }

    fn configure(&mut self, config: &[u8; 64]) {
        let (row_bytes, rows) = (&config[16..48], &config[48..]);
        self.data = [[[0; ROW_BYTES]; ROWS]; TILES];
        self.configured = config[0] != 0;
        if !self.configured {
            return;
        }
        if config[0] != 1 || config[1] != 0 || config[2..16].iter().any(|x| *x != 0) {
            fault("ldtilecfg: only palette 1, from row 0, reserved bytes zero");
        }
        if rows[TILES..].iter().chain(&row_bytes[2 * TILES..]).any(|x| *x != 0) {
            fault("ldtilecfg: palette 1 has 8 tiles");
        }
        for tile in 0..TILES {
            self.rows[tile] = usize::from(rows[tile]);
            self.row_bytes[tile] = usize::from(u16::from_le_bytes([row_bytes[2 * tile], row_bytes[2 * tile + 1]]));
            if self.rows[tile] > ROWS || self.row_bytes[tile] > ROW_BYTES {
                fault("ldtilecfg: a tile is larger than 16 rows of 64 bytes");
            }
            if (self.rows[tile] == 0) != (self.row_bytes[tile] == 0) {
                fault("ldtilecfg: a tile without rows or without columns");
            }
        }
    }

    /// As the manual's pseudo-code: the even and the odd `k` of a step are summed apart, fused, subnormals as zero.
    #[target_feature(enable = "avx512f,fma")]
    fn dot_bf16(&mut self, sum: usize, a: usize, b: usize) {
        let bf16 = |bytes: &[u8]| flush(f32::from_bits(u32::from(u16::from_le_bytes([bytes[0], bytes[1]])) << 16));
        let columns = self.row_bytes[sum] / 4;
        for row in 0..self.rows[sum] {
            let mut sums = [[0.0f32; 2]; ROW_BYTES / 4];
            for pair in 0..self.row_bytes[a] / 4 {
                let x = &self.data[a][row][4 * pair..];
                for (sums, y) in sums[..columns].iter_mut().zip(self.data[b][pair].chunks_exact(4)) {
                    sums[0] = flush(bf16(x).mul_add(bf16(y), sums[0]));
                    sums[1] = flush(bf16(&x[2..]).mul_add(bf16(&y[2..]), sums[1]));
                }
            }
            for (bytes, sums) in self.data[sum][row].chunks_exact_mut(4).zip(&sums[..columns]) {
                let before = flush(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
                let after = flush(before + flush(sums[0] + sums[1]));
                bytes.copy_from_slice(&after.to_le_bytes());
            }
        }
    }
}

/// Subnormal numbers are zeros to the tile unit.
#[inline(always)]
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0 } else { x }
}
