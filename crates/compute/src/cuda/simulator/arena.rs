//! What a running block needs of the host: stacks for its threads, its shared memory, and a way out of a fault.

use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_int, c_void};
use std::sync::Once;

use super::memory::{PAGE, Pages};

/// Most threads of a block.
pub(super) const STACKS: usize = 1024;
/// Most shared memory of a block on any GPU, and what is watched below it.
const SHARED_BYTES: usize = 256 << 10;

/// Stacks and shared memory of one thread of the host. Pages that are not touched cost nothing.
pub(super) struct Arena {
    stacks: Pages,
    shared: Pages,
}

impl Arena {
    /// Bytes of one stack.
    pub(super) const STACK_BYTES: usize = 128 << 10;
    /// From one stack to the next: a page that may not be touched lies between.
    pub(super) const STACK_STRIDE: usize = Arena::STACK_BYTES + PAGE;

    fn new() -> Arena {
        let stacks = Pages::new(STACKS * Arena::STACK_STRIDE).expect("address space for the fibers' stacks");
        for i in 1..STACKS {
            // SAFETY: the page below stack `i`, inside the mapping.
            unsafe {
                let guard = stacks.start().add(i * Arena::STACK_STRIDE - PAGE);
                libc::mprotect(guard.cast(), PAGE, libc::PROT_NONE);
            }
        }
        Arena { stacks, shared: Pages::new(SHARED_BYTES).expect("a block's shared memory") }
    }

    pub(super) fn first_stack(&self) -> *mut u8 {
        self.stacks.start()
    }

    pub(super) fn shared_end(&self) -> *mut u8 {
        self.shared.end()
    }
}

thread_local! {
    static ARENA: RefCell<Option<Arena>> = const { RefCell::new(None) };
    /// Where a fault of this thread is reported, while a grid runs on it.
    static FAULT: Cell<Option<unsafe extern "C" fn(u64, *const c_char)>> = const { Cell::new(None) };
}

/// Lends this thread's arena.
pub(super) fn with<R>(body: impl FnOnce(&Arena) -> R) -> R {
    ARENA.with_borrow_mut(|arena| body(arena.get_or_insert_with(Arena::new)))
}

/// Ends on being dropped.
pub(super) struct Catching(());

impl Drop for Catching {
    fn drop(&mut self) {
        FAULT.set(None);
    }
}

/// From now on a fault of this thread is reported to this function, which leaves the fiber and does not return.
pub(super) fn catch_faults(report: unsafe extern "C" fn(u64, *const c_char)) -> Catching {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        for (signal, before) in SIGNALS.into_iter().zip(&BEFORE) {
            // SAFETY: a handler of the right type. It may leave by switching stacks, hence SA_NODEFER; it runs on the
            // thread's alternative stack where Rust has made one, so that a fiber's overflow is caught as well.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handle as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
                libc::sigaction(signal, &action, before.0.get());
            }
        }
    });
    FAULT.set(Some(report));
    Catching(())
}

/// What was installed before us: Rust's own handlers.
struct Before(std::cell::UnsafeCell<libc::sigaction>);
// SAFETY: written once, before the handler that reads it can run.
unsafe impl Sync for Before {}
/// No such page, bad alignment in hardware, and the traps that the compiler's alignment checks end in.
const SIGNALS: [c_int; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGTRAP];
// SAFETY: all zeros is a valid sigaction: the default action.
static BEFORE: [Before; 4] = [const { Before(std::cell::UnsafeCell::new(unsafe { std::mem::zeroed() })) }; 4];

type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    if let Some(report) = FAULT.get() {
        let trap = matches!(signal, libc::SIGILL | libc::SIGTRAP);
        // SAFETY: the kernel passes a valid siginfo.
        let address = if trap { 0 } else { unsafe { (*info).si_addr() as u64 } };
        let what = if trap { c"used a misaligned address" } else { c"touched what is not the device's memory" };
        // SAFETY: `report` leaves for the scheduler of this thread's running grid.
        unsafe { report(address, what.as_ptr()) };
    }
    // Not ours: hand it to whoever was there (the emulator of AMX, Rust), or put the default back and let the instruction
    // fault again.
    for (ours, before) in SIGNALS.into_iter().zip(&BEFORE) {
        if ours != signal {
            continue;
        }
        // SAFETY: the action that `sigaction` wrote; with SA_SIGINFO it is a handler of this type.
        unsafe {
            let action = &*before.0.get();
            if action.sa_flags & libc::SA_SIGINFO != 0 {
                return core::mem::transmute::<usize, Handler>(action.sa_sigaction)(signal, info, context);
            }
            libc::sigaction(signal, action, std::ptr::null_mut());
        }
    }
}
