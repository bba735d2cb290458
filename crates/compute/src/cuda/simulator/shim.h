// A GPU's block of threads on one thread of a CPU: what a kernel's translation unit expects of the CUDA compiler and of
// the hardware. Each CUDA thread is a fiber with a stack of its own; a fiber runs until it waits for others (a barrier, a
// warp operation) or returns, then a seeded scheduler picks the next. Blocks run one after another, in an order that the
// seed shuffles.
//
// What it watches: barriers and warp operations that not all threads reach, warp operations that differ within a warp,
// shared memory beyond its size or read before it is written (it starts as NaN), asynchronous copies that are read before
// they are waited for, misaligned vectors and copies, and any address outside the device's memory (a guard page faults).
// What it does not know: caches, bank conflicts, occupancy, atomics between blocks, time.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if !defined(__x86_64__) || defined(SIMULATOR_UCONTEXT)
#include <ucontext.h>
#endif

// By hand: C++'s <math.h> is the larger part of the time to compile a kernel, and its internal names are CUDA's.
extern "C" {
float expf(float), exp2f(float), expm1f(float), logf(float), log2f(float), log1pf(float), sqrtf(float), fabsf(float);
float fmaxf(float, float), fminf(float, float), fmaf(float, float, float), powf(float, float), erff(float), tanhf(float);
float floorf(float), ceilf(float), rintf(float), truncf(float), sinf(float), cosf(float), ldexpf(float, int);
double exp(double), log(double), sqrt(double), fabs(double), fmax(double, double), fmin(double, double);
double fma(double, double, double), floor(double), ceil(double), rint(double), erf(double), tanh(double);
}

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
#define __constant__ static const
// Static shared memory would escape the poison and the size check.
#define __shared__ shared_memory_only_by_the_macro_SHARED_MEMORY

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
};
#define SIMULATOR_VECTOR(element, name, alignment)                                                     \
    struct __align__(2 * alignment) name##2 {                                                          \
        element x, y;                                                                                  \
    };                                                                                                 \
    struct __align__(4 * alignment) name##4 {                                                          \
        element x, y, z, w;                                                                            \
    };                                                                                                 \
    static inline name##2 make_##name##2(element x, element y) {                                       \
        return {x, y};                                                                                 \
    }                                                                                                  \
    static inline name##4 make_##name##4(element x, element y, element z, element w) {                 \
        return {x, y, z, w};                                                                           \
    }
SIMULATOR_VECTOR(float, float, 4)
SIMULATOR_VECTOR(unsigned, uint, 4)
SIMULATOR_VECTOR(int, int, 4)
SIMULATOR_VECTOR(unsigned short, ushort, 2)
#undef SIMULATOR_VECTOR

namespace simulator {

// ---- what Rust passes (simulator/module.rs has the same structures) ----

struct Argument {
    unsigned kind;  // 0 pointer, 1 u32, 2 i32, 3 u64, 4 float
    unsigned unused;
    unsigned long long bits;
};
struct Launch {
    unsigned grid[3], block[3];
    unsigned shared_bytes;
    unsigned stacks;              // how many there are
    unsigned long long seed;
    char* shared_end;             // a guard page begins here
    char* stack;                  // the first stack's lowest byte
    unsigned long long stack_bytes, stack_stride;
};

static const unsigned MOST_THREADS = 1024;
static const unsigned LANES = 32;
static const unsigned char POISON = 0xff;
static const unsigned WATCHED = 256;  // bytes below the block's shared memory that must stay poisoned

enum State : unsigned char { READY, AT_BARRIER, AT_WARP_OPERATION, GONE };
static const char* const WARP_OPERATIONS[] = {"none", "__syncwarp", "__shfl", "vote", "mma", "ldmatrix"};
enum WarpOperation : unsigned char { NONE, SYNC, SHUFFLE, VOTE, MMA, LDMATRIX };

struct Copy {
    void* to;
    const void* from;
    unsigned group;
    bool read;
};
struct Fiber {
    void* stack_pointer;
    uint3 thread;
    unsigned linear;
    unsigned turn;    // parity: which of its warp's two sets of words it writes next
    unsigned groups;  // of asynchronous copies, closed so far
    unsigned pending, capacity;
    Copy* copies;
    unsigned products, product_groups;  // of a warpgroup: started and not yet done, and groups closed so far
    State state;
};
struct Words {
    unsigned long long word[4];
};
struct Warp {
    Words words[2][LANES];
    unsigned alive, arrived, ready;
    WarpOperation operation;
};

static Fiber fibers[MOST_THREADS];
static Warp warps[MOST_THREADS / LANES];
static Fiber* current;
static uint3 block_index;
static dim3 block_size, grid_size;
static unsigned threads, alive, arrived;
static void* scheduler;
static void (*body)();
static const Launch* launch;
static unsigned long long random_state;
static bool failed, may_land_early;
static char message[640];

// PCG (O'Neill 2014), 32 bits.
static inline unsigned random_bits() {
    unsigned long long old = random_state;
    random_state = old * 6364136223846793005ull + 1442695040888963407ull;
    unsigned shifted = (unsigned)(((old >> 18) ^ old) >> 27), turn = (unsigned)(old >> 59);
    return (shifted >> turn) | (shifted << ((32 - turn) & 31));
}

// ---- switching ----

#if defined(__x86_64__) && !defined(SIMULATOR_UCONTEXT)
// Saves what the System V ABI lets a function keep, and its stack; takes up another.
extern "C" void simulator_switch(void** save, void* to);
__asm__(
    ".text\n"
    ".globl simulator_switch\n"
    ".hidden simulator_switch\n"
    ".type simulator_switch, @function\n"
    "simulator_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n"
    ".size simulator_switch, .-simulator_switch\n");
static void prepare(Fiber& fiber, char* stack, size_t bytes, void (*entry)()) {
    void** top = (void**)(stack + bytes - 64);
    *--top = 0;  // where entry would return to; it does not
    *--top = (void*)entry;
    for (int i = 0; i < 6; ++i) {
        *--top = 0;
    }
    fiber.stack_pointer = top;
}
#else
// Slower, for other processors.
static ucontext_t contexts[MOST_THREADS + 1];
static void simulator_switch(void** save, void* to) {
    ucontext_t* from = save == &scheduler ? &contexts[MOST_THREADS] : (ucontext_t*)*save;
    *save = from;
    swapcontext(from, (ucontext_t*)to);
}
static void prepare(Fiber& fiber, char* stack, size_t bytes, void (*entry)()) {
    ucontext_t* context = &contexts[fiber.linear];
    getcontext(context);
    context->uc_stack.ss_sp = stack;
    context->uc_stack.ss_size = bytes;
    context->uc_link = 0;
    makecontext(context, entry, 0);
    fiber.stack_pointer = context;
}
#endif

static inline void suspend() {
    simulator_switch(&current->stack_pointer, scheduler);
}

// Ends the launch; what is called in a fiber does not return.
__attribute__((noinline)) static void report(const char* format, ...) {
    if (!failed) {
        failed = true;
        va_list list;
        va_start(list, format);
        vsnprintf(message, sizeof message, format, list);
        va_end(list);
    }
}
__attribute__((noinline)) static void fail(const char* what) {
    report("%s, in thread (%u, %u, %u) of block (%u, %u, %u)", what, current->thread.x, current->thread.y,
           current->thread.z, block_index.x, block_index.y, block_index.z);
    current->state = GONE;
    suspend();
    abort();
}

// ---- barriers ----

static void release_block() {
    arrived = 0;
    for (unsigned i = 0; i < threads; ++i) {
        if (fibers[i].state == AT_BARRIER) {
            fibers[i].state = READY;
            ++warps[i / LANES].ready;
        }
    }
}
static inline void barrier() {
    if (++arrived == alive) {
        release_block();
        return;
    }
    current->state = AT_BARRIER;
    --warps[current->linear / LANES].ready;
    suspend();
}

static inline unsigned lane() {
    return current->linear % LANES;
}
static inline Warp& warp() {
    return warps[current->linear / LANES];
}
// Where this lane leaves what it gives to the operation at hand.
static inline Words& mine() {
    return warp().words[current->turn & 1][lane()];
}
// What a lane gave to the operation that has just met. Valid until this lane's next operation: the other set of words
// is written meanwhile, and this one only once all have met again.
static inline const Words& theirs(unsigned lane) {
    return warp().words[~current->turn & 1][lane];
}
static void release_warp(Warp& warp, unsigned index) {
    warp.arrived = 0;
    warp.operation = NONE;
    for (unsigned i = index * LANES; i < threads && i < (index + 1) * LANES; ++i) {
        if (fibers[i].state == AT_WARP_OPERATION) {
            fibers[i].state = READY;
            ++warp.ready;
        }
    }
}
// Waits until every lane of the warp has come to the same operation.
static inline void meet(WarpOperation operation, unsigned mask) {
    Warp& here = warp();
    if (mask != 0xffffffffu) {
        fail("a warp operation of some lanes only, which is not simulated");
    }
    if (operation >= MMA && here.alive != LANES) {
        fail("mma or ldmatrix in a warp of fewer than 32 lanes");
    }
    if (here.operation != NONE && here.operation != operation) {
        report("lanes of one warp are at different operations (%s and %s), in block (%u, %u, %u)",
               WARP_OPERATIONS[here.operation], WARP_OPERATIONS[operation], block_index.x, block_index.y, block_index.z);
        fail("");
    }
    here.operation = operation;
    ++current->turn;
    if (++here.arrived == here.alive) {
        release_warp(here, current->linear / LANES);
        return;
    }
    current->state = AT_WARP_OPERATION;
    --here.ready;
    suspend();
}

// ---- asynchronous copies ----

static void land(const Copy& copy) {
    if (copy.read) {
        memcpy(copy.to, copy.from, 16);
    } else {
        memset(copy.to, 0, 16);
    }
}
static void copy_async(void* to, const void* from, bool read) {
    if (((size_t)to | (read ? (size_t)from : 0)) % 16 != 0) {
        fail("an asynchronous copy at a misaligned address");
    }
    char* end = launch->shared_end;
    if ((char*)to < end - launch->shared_bytes || (char*)to + 16 > end) {
        fail("an asynchronous copy to outside of the block's shared memory");
    }
    Copy copy = {to, from, current->groups, read};
    // On a GPU they may land at any moment from now to the wait.
    if (may_land_early && random_bits() % 2 == 0) {
        land(copy);
        return;
    }
    Fiber& fiber = *current;
    if (fiber.pending == fiber.capacity) {
        fiber.capacity = fiber.capacity ? 2 * fiber.capacity : 32;
        fiber.copies = (Copy*)realloc(fiber.copies, fiber.capacity * sizeof(Copy));
    }
    fiber.copies[fiber.pending++] = copy;
}
static void commit_copies() {
    ++current->groups;
}
static void wait_for_copies(unsigned still_pending) {
    Fiber& fiber = *current;
    unsigned kept = 0;
    for (unsigned i = 0; i < fiber.pending; ++i) {
        // Groups are counted from 0; those that are not closed are not waited for.
        if (fiber.copies[i].group + still_pending < fiber.groups) {
            land(fiber.copies[i]);
        } else {
            fiber.copies[kept++] = fiber.copies[i];
        }
    }
    fiber.pending = kept;
}

// ---- running a block ----

static void enter() {
    body();
    Fiber& fiber = *current;
    unsigned index = fiber.linear / LANES;
    Warp& here = warps[index];
    fiber.state = GONE;
    --here.ready;
    --here.alive;
    --alive;
    // Those who wait for everyone no longer wait for this one.
    if (here.arrived > 0 && here.arrived == here.alive) {
        release_warp(here, index);
    }
    if (arrived > 0 && arrived == alive) {
        release_block();
    }
    suspend();
    abort();
}

static void report_deadlock() {
    unsigned at_barrier = 0, at_operation = 0, operation = 0;
    for (unsigned i = 0; i < threads; ++i) {
        at_barrier += fibers[i].state == AT_BARRIER;
        if (fibers[i].state == AT_WARP_OPERATION) {
            ++at_operation;
            operation = warps[i / LANES].operation;
        }
    }
    report("deadlock in block (%u, %u, %u): of %u threads %u wait at __syncthreads, %u at a warp operation (%s) and %u are gone",
           block_index.x, block_index.y, block_index.z, threads, at_barrier, at_operation, WARP_OPERATIONS[operation],
           threads - alive);
}

static void run_block() {
    char* shared = launch->shared_end - launch->shared_bytes;
    memset(shared - WATCHED, POISON, launch->shared_bytes + WATCHED);
    alive = threads;
    arrived = 0;
    unsigned n_warps = (threads + LANES - 1) / LANES;
    for (unsigned w = 0; w < n_warps; ++w) {
        unsigned lanes = threads - w * LANES < LANES ? threads - w * LANES : LANES;
        warps[w].alive = warps[w].ready = lanes;
        warps[w].arrived = 0;
        warps[w].operation = NONE;
    }
    for (unsigned i = 0; i < threads; ++i) {
        Fiber& fiber = fibers[i];
        fiber.linear = i;
        fiber.thread = {i % block_size.x, i / block_size.x % block_size.y, i / (block_size.x * block_size.y)};
        fiber.turn = fiber.groups = fiber.pending = fiber.products = fiber.product_groups = 0;
        fiber.state = READY;
        prepare(fiber, launch->stack + i * launch->stack_stride, launch->stack_bytes, enter);
    }
    while (alive > 0 && !failed) {
        unsigned w = random_bits() % n_warps, tried = 0;
        while (tried < n_warps && warps[w].ready == 0) {
            w = (w + 1) % n_warps;
            ++tried;
        }
        if (tried == n_warps) {
            report_deadlock();
            return;
        }
        // Sometimes a warp runs a step ahead of the others, sometimes from barrier to barrier; its lanes run in either
        // order, as they may since Volta.
        unsigned passes = 1u << (random_bits() % 11);
        unsigned first = w * LANES, lanes = threads - first < LANES ? threads - first : LANES;
        while (passes-- > 0 && warps[w].ready > 0 && !failed) {
            unsigned flip = random_bits() & 1 ? lanes - 1 : 0;
            for (unsigned i = 0; i < lanes && !failed; ++i) {
                Fiber& fiber = fibers[first + (flip ? flip - i : i)];
                if (fiber.state == READY) {
                    current = &fiber;
                    simulator_switch(&scheduler, fiber.stack_pointer);
                }
            }
        }
    }
    for (unsigned i = 1; i <= WATCHED && !failed; ++i) {
        if ((unsigned char)shared[-(int)i] != POISON) {
            report("wrote %u bytes before the start of shared memory, in block (%u, %u, %u)", i, block_index.x,
                   block_index.y, block_index.z);
        }
    }
}

// A permutation of 0 .. count that needs no memory: an affine map by a multiplier without a common divisor.
static unsigned long long coprime(unsigned long long count) {
    for (;;) {
        unsigned long long a = random_bits() % count, x, y;
        for (x = count, y = a; y != 0;) {
            unsigned long long rest = x % y;
            x = y;
            y = rest;
        }
        if (x == 1) {
            return a;
        }
    }
}

static int run_grid(const Launch* what, unsigned bound) {
    launch = what;
    random_state = what->seed * 0x9e3779b97f4a7c15ull + 0x2545f4914f6cdd1dull;
    random_bits();
    // Three seeds of four keep every copy back until it is waited for.
    may_land_early = what->seed % 4 == 3;
    block_size = {what->block[0], what->block[1], what->block[2]};
    grid_size = {what->grid[0], what->grid[1], what->grid[2]};
    failed = false;
    message[0] = 0;
    unsigned long long wide = (unsigned long long)block_size.x * block_size.y * block_size.z;
    unsigned long long blocks = (unsigned long long)grid_size.x * grid_size.y * grid_size.z;
    if (wide == 0 || blocks == 0 || grid_size.y > 65535 || grid_size.z > 65535 || grid_size.x > 0x7fffffff) {
        report("a grid of %u x %u x %u blocks of %u x %u x %u threads", grid_size.x, grid_size.y, grid_size.z,
               block_size.x, block_size.y, block_size.z);
        return 1;
    }
    if (wide > bound || wide > what->stacks) {
        report("blocks of %llu threads where __launch_bounds__ says %u", wide, bound);
        return 1;
    }
    threads = (unsigned)wide;
    unsigned long long step = coprime(blocks), start = random_bits() % blocks;
    for (unsigned long long i = 0; i < blocks && !failed; ++i) {
        unsigned long long b = (i * step + start) % blocks;
        block_index = {(unsigned)(b % grid_size.x), (unsigned)(b / grid_size.x % grid_size.y),
                       (unsigned)(b / grid_size.x / grid_size.y)};
        run_block();
    }
    current = 0;
    return failed;
}

// ---- from a list of arguments to a call ----

template <typename T>
struct Kind;
template <typename T>
struct Kind<T*> {
    static const unsigned KIND = 0;
};
template <>
struct Kind<unsigned> {
    static const unsigned KIND = 1;
};
template <>
struct Kind<int> {
    static const unsigned KIND = 2;
};
template <>
struct Kind<unsigned long long> {
    static const unsigned KIND = 3;
};
template <>
struct Kind<float> {
    static const unsigned KIND = 4;
};

static const Argument* call_arguments;

template <typename T>
static inline T argument(unsigned i) {
    T value;
    memcpy(&value, &call_arguments[i].bits, sizeof value);
    return value;
}

template <unsigned... I>
struct Indices {};
template <unsigned N, unsigned... I>
struct MakeIndices : MakeIndices<N - 1, N - 1, I...> {};
template <unsigned... I>
struct MakeIndices<0, I...> {
    typedef Indices<I...> Type;
};

template <typename... P>
struct Entry {
    typedef void (*Function)(P...);
    static Function function;
    template <unsigned... I>
    static inline void call(Indices<I...>) {
        function(argument<P>(I)...);
    }
    static void body() {
        call(typename MakeIndices<sizeof...(P)>::Type());
    }
};
template <typename... P>
typename Entry<P...>::Function Entry<P...>::function;

template <typename... P>
static int run(void (*function)(P...), unsigned bound, const Launch* launch, const Argument* arguments, unsigned count) {
    static const char* const NAMES[] = {"pointer", "u32", "i32", "u64", "float"};
    const unsigned kinds[] = {Kind<P>::KIND..., 0};
    failed = false;
    if (count != sizeof...(P)) {
        report("called with %u arguments, not %u", count, (unsigned)sizeof...(P));
        return 1;
    }
    for (unsigned i = 0; i < count; ++i) {
        if (arguments[i].kind != kinds[i]) {
            report("argument %u is a %s, not a %s", i, NAMES[arguments[i].kind], NAMES[kinds[i]]);
            return 1;
        }
    }
    call_arguments = arguments;
    Entry<P...>::function = function;
    body = Entry<P...>::body;
    return run_grid(launch, bound);
}

}  // namespace simulator

extern "C" __attribute__((visibility("default"))) const char* simulator_message() {
    return simulator::message;
}
// Called on a fault in a fiber: ends the launch instead of the process.
extern "C" __attribute__((visibility("default"))) void simulator_fault(unsigned long long address, const char* what) {
    using namespace simulator;
    if (!current) {
        abort();
    }
    char* end = launch->shared_end;
    char text[400];
    if ((char*)address >= end && (char*)address < end + (1 << 16)) {
        snprintf(text, sizeof text, "touched byte %llu of shared memory of %u bytes",
                 (unsigned long long)((char*)address - (end - launch->shared_bytes)), launch->shared_bytes);
    } else {
        snprintf(text, sizeof text, "%s (0x%llx)", what, address);
    }
    fail(text);
}

// ---- CUDA's names ----

#define threadIdx (simulator::current->thread)
#define blockIdx (simulator::block_index)
#define blockDim (simulator::block_size)
#define gridDim (simulator::grid_size)
#define SHARED_MEMORY(type, name) \
    type* const name = (type*)(simulator::launch->shared_end - simulator::launch->shared_bytes)

static inline void __syncthreads() {
    simulator::barrier();
}
static inline void __syncwarp(unsigned mask = 0xffffffffu) {
    simulator::meet(simulator::SYNC, mask);
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}

template <typename T>
static inline T __shfl_sync(unsigned mask, T value, int from) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    memcpy(&simulator::mine(), &value, sizeof value);
    simulator::meet(simulator::SHUFFLE, mask);
    memcpy(&value, &simulator::theirs(from & 31), sizeof value);
    return value;
}
template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T value, int lanes) {
    return __shfl_sync(mask, value, (int)simulator::lane() ^ lanes);
}
template <typename T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned distance) {
    unsigned lane = simulator::lane();
    return __shfl_sync(mask, value, lane >= distance ? lane - distance : lane);
}
template <typename T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned distance) {
    unsigned lane = simulator::lane();
    return __shfl_sync(mask, value, lane + distance < simulator::LANES ? lane + distance : lane);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate) {
    simulator::mine().word[0] = predicate != 0;
    simulator::meet(simulator::VOTE, mask);
    unsigned bits = 0, first = simulator::current->linear / simulator::LANES * simulator::LANES;
    for (unsigned i = 0; i < simulator::LANES && first + i < simulator::threads; ++i) {
        bits |= (unsigned)simulator::theirs(i).word[0] << i;
    }
    return bits;
}
static inline int __any_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, predicate) != 0;
}
static inline int __all_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, !predicate) == 0;
}

static inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}
static inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
static inline int __float_as_int(float x) {
    return (int)__float_as_uint(x);
}
static inline float __int_as_float(int bits) {
    return __uint_as_float((unsigned)bits);
}
static inline unsigned __umulhi(unsigned a, unsigned b) {
    return (unsigned)((unsigned long long)a * b >> 32);
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
static inline int __clz(int x) {
    return x == 0 ? 32 : __builtin_clz((unsigned)x);
}
static inline int __ffs(int x) {
    return __builtin_ffs(x);
}
template <typename T>
static inline T __ldg(const T* at) {
    return *at;
}
static inline float __expf(float x) {
    return expf(x);
}
static inline float __logf(float x) {
    return logf(x);
}
template <typename T>
static inline bool isnan(T x) {
    return __builtin_isnan(x);
}
template <typename T>
static inline bool isinf(T x) {
    return __builtin_isinf(x);
}
template <typename T>
static inline bool isfinite(T x) {
    return __builtin_isfinite(x);
}
// A product that is rounded before anything is added to it.
static inline float __fmul_rn(float a, float b) {
    volatile float product = a * b;
    return product;
}
static inline float __fdividef(float a, float b) {
    return a / b;
}
static inline float rsqrtf(float x) {
    return 1.0f / sqrtf(x);
}
#define SIMULATOR_MIN_MAX(T)                \
    static inline T min(T a, T b) {         \
        return b < a ? b : a;               \
    }                                       \
    static inline T max(T a, T b) {         \
        return a < b ? b : a;               \
    }
SIMULATOR_MIN_MAX(int)
SIMULATOR_MIN_MAX(unsigned)
SIMULATOR_MIN_MAX(long long)
SIMULATOR_MIN_MAX(unsigned long long)
#undef SIMULATOR_MIN_MAX
