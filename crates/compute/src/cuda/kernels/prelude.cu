// Types and small functions that every kernel may use. No PTX, no headers: NVRTC on a machine without the CUDA toolkit
// has neither <stdint.h> nor cuda_bf16.h.
//
// STORAGE_BF16 (0 or 1), if defined, says what the storage type of activations, S, is.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long long u64;
typedef long long i64;

#define DEVICE __device__ __forceinline__

// Dynamic shared memory of the block, as an array of `type` called `name`; aligned to the 1024 bytes of a swizzle's pattern.
// Uses of it in one kernel all start at the same place. (The simulator brings its own, which it poisons and watches.)
#ifndef SHARED_MEMORY
#define SHARED_MEMORY(type, name)                                   \
    extern __shared__ __align__(1024) unsigned char shared_bytes[]; \
    type* const name = reinterpret_cast<type*>(shared_bytes)
#endif

#define WARP 32u
#define ALL_LANES 0xffffffffu
#define INFINITE __uint_as_float(0x7f800000u)
#define NOT_A_NUMBER __uint_as_float(0x7fffffffu)

// ---- bf16: the upper half of an f32 ----

struct bf16 {
    u16 bits;
};

DEVICE float to_float(float x) {
    return x;
}
DEVICE float to_float(bf16 x) {
    return __uint_as_float(static_cast<u32>(x.bits) << 16);
}

template <typename T>
DEVICE T from_float(float x);

template <>
DEVICE float from_float<float>(float x) {
    return x;
}
// To nearest, ties to even; a NaN stays a NaN. Bit for bit what Bf16::from_f32 does on the host.
template <>
DEVICE bf16 from_float<bf16>(float x) {
    u32 bits = __float_as_uint(x);
    u32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    bf16 y;
    y.bits = static_cast<u16>((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
    return y;
}

// ---- 8-bit floats, for what has no instruction for them ----

// The code of x with so many bits of mantissa (3: E4M3, 2: E5M2), to nearest, ties to even; beyond the largest number the
// largest, infinities included; a NaN becomes 0x7f. Bit for bit what PTX's cvt.rn.satfinite does.
template <u32 MANTISSA>
DEVICE u32 fp8_code(float x) {
    const u32 BIAS = MANTISSA == 3 ? 7 : 15, LARGEST = MANTISSA == 3 ? 0x7eu : 0x7bu;
    u32 bits = __float_as_uint(x), magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return 0x7fu;
    }
    u32 code;
    if (magnitude < (128 - BIAS) << 23) {
        // Below the smallest normal number: added to a power of two whose last place is the subnormals' step, x is rounded
        // by the addition.
        u32 power = (151 - BIAS - MANTISSA) << 23;
        code = __float_as_uint(__uint_as_float(magnitude) + __uint_as_float(power)) - power;
    } else {
        const u32 DROPPED = 23 - MANTISSA;
        u32 rounded = magnitude + (1u << (DROPPED - 1)) - 1 + (magnitude >> DROPPED & 1);
        code = (rounded >> DROPPED) - ((127 - BIAS) << MANTISSA);
    }
    return (code < LARGEST ? code : LARGEST) | (bits >> 24 & 0x80u);
}

#ifdef STORAGE_BF16
#if STORAGE_BF16
typedef bf16 S;
#else
typedef float S;
#endif
#endif

// ---- 16 bytes at once ----

// As many elements as 16 bytes hold: 8 of bf16, 4 of float.
template <typename T>
struct __align__(16) Vector {
    static constexpr u32 LEN = 16 / sizeof(T);
    T lane[LEN];
};

// `at` must be aligned to 16 bytes.
template <typename T>
DEVICE Vector<T> load_vector(const T* at) {
    union {
        uint4 raw;
        Vector<T> vector;
    } both = {*reinterpret_cast<const uint4*>(at)};
    return both.vector;
}
template <typename T>
DEVICE void store_vector(T* at, const Vector<T>& vector) {
    union {
        Vector<T> vector;
        uint4 raw;
    } both = {vector};
    *reinterpret_cast<uint4*>(at) = both.raw;
}
// Whether load_vector and store_vector may be used at this address.
DEVICE bool is_aligned(const void* at) {
    return (reinterpret_cast<u64>(at) & 15u) == 0;
}

// ---- N neighbours as floats ----

// What memory is read and written in.
template <u32 BYTES>
struct Access;
template <>
struct Access<2> {
    typedef u16 Type;
};
template <>
struct Access<4> {
    typedef u32 Type;
};
template <>
struct Access<8> {
    typedef uint2 Type;
};
template <>
struct Access<16> {
    typedef uint4 Type;
};
// As many of N elements as go into one access.
template <typename T, u32 N>
union Group {
    static constexpr u32 LEN = N * sizeof(T) > 16 ? 16 / sizeof(T) : N;
    typedef typename Access<LEN * sizeof(T)>::Type Raw;
    Raw raw;
    T lane[LEN];
    u32 word[LEN * sizeof(T) > 4 ? LEN * sizeof(T) / 4 : 1];
};

// Of ptx.cu: two bf16 in a register, by one instruction where from_float takes seven for each.
DEVICE u32 pack_bf16(float low, float high);

// x = at[0 .. N]. `at` must be aligned to N elements, or to 16 bytes if that is less.
template <u32 N, typename T>
DEVICE void load(const T* at, float (&x)[N]) {
    typedef Group<T, N> G;
#pragma unroll
    for (u32 i = 0; i < N; i += G::LEN) {
        G group;
        group.raw = *reinterpret_cast<const typename G::Raw*>(at + i);
#pragma unroll
        for (u32 j = 0; j < G::LEN; ++j) {
            x[i + j] = to_float(group.lane[j]);
        }
    }
}
// at[0 .. N] = x, rounded; aligned as for load.
template <u32 N, typename T>
DEVICE void store(T* at, const float (&x)[N]) {
    typedef Group<T, N> G;
#pragma unroll
    for (u32 i = 0; i < N; i += G::LEN) {
        G group;
        if constexpr (sizeof(T) == 2 && G::LEN % 2 == 0) {
#pragma unroll
            for (u32 j = 0; j < G::LEN; j += 2) {
                group.word[j / 2] = pack_bf16(x[i + j], x[i + j + 1]);
            }
        } else {
#pragma unroll
            for (u32 j = 0; j < G::LEN; ++j) {
                group.lane[j] = from_float<T>(x[i + j]);
            }
        }
        *reinterpret_cast<typename G::Raw*>(at + i) = group.raw;
    }
}

#ifdef STORAGE_BF16
// Elements of S in 16 bytes: what a thread of a kernel that goes over memory once takes at a time.
static constexpr u32 WIDE = Vector<S>::LEN;
#endif

// ---- small arithmetic ----

DEVICE u32 ceil_div(u32 a, u32 b) {
    return (a + b - 1) / b;
}

// ---- reductions, in one fixed order: the same bits every time ----

struct Sum {
    static DEVICE float identity() {
        return 0.0f;
    }
    static DEVICE float combine(float a, float b) {
        return a + b;
    }
};
struct Max {
    static DEVICE float identity() {
        return -INFINITE;
    }
    static DEVICE float combine(float a, float b) {
        return fmaxf(a, b);
    }
};

// Over the 32 lanes; every lane gets the result. All lanes must take part.
template <typename Operation>
DEVICE float warp_reduce(float x) {
    for (u32 distance = WARP / 2; distance > 0; distance /= 2) {
        x = Operation::combine(x, __shfl_xor_sync(ALL_LANES, x, distance));
    }
    return x;
}
DEVICE float warp_sum(float x) {
    return warp_reduce<Sum>(x);
}
DEVICE float warp_max(float x) {
    return warp_reduce<Max>(x);
}

// Over a block of THREADS threads along x; every thread gets the result. `scratch` is shared memory of THREADS / 32 floats,
// free again when the function returns.
template <typename Operation, u32 THREADS>
DEVICE float block_reduce(float x, float* scratch) {
    static_assert(THREADS % WARP == 0, "whole warps");
    x = warp_reduce<Operation>(x);
    if (threadIdx.x % WARP == 0) {
        scratch[threadIdx.x / WARP] = x;
    }
    __syncthreads();
    x = Operation::identity();
    for (u32 warp = 0; warp < THREADS / WARP; ++warp) {
        x = Operation::combine(x, scratch[warp]);
    }
    __syncthreads();
    return x;
}
template <u32 THREADS>
DEVICE float block_sum(float x, float* scratch) {
    return block_reduce<Sum, THREADS>(x, scratch);
}
template <u32 THREADS>
DEVICE float block_max(float x, float* scratch) {
    return block_reduce<Max, THREADS>(x, scratch);
}
