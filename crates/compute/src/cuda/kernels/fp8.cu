// 8-bit floating-point operands (Micikevicius et al. 2022, arXiv 2209.05433) with one scale a tensor, found just in time:
//
//   largest = max |x|, factor = LARGEST / largest, scale = largest / LARGEST, code[i] = round(x[i] factor)
//
// so that code[i] scale is about x[i]. LARGEST is the format's: 448 of E4M3 (weights, activations), 57,344 of E5M2
// (gradients). The conversion saturates, so that a NaN or an infinity must not pass through it unseen: magnitudes are
// compared as integers, where both are larger than any number, and the scale is then NaN, which the product multiplies
// every element by.
//
// largest_bf16, largest_f32: partial[block] = max |x| of a piece; reads 2 or 4 bytes an element.
// quantise_e4m3, quantise_e5m2: each block takes the largest of the partials, then codes of its elements; reads 2 bytes and
//   writes 1 an element. Lengths are multiples of 16.
// quantise_matrix: a weight's f32 values [rows, columns] to E4M3, as they lie and transposed through shared memory; reads 4
//   bytes and writes 2 an element. Rows and columns are multiples of 16.
//
// A maximum does not depend on the order, so that neither does any bit of the result.

// Partial maxima, at most.
#define PIECES 1024u
// Elements that a thread converts at once: 16 codes in one store.
#define RUN 16u
// Runs of each thread of quantise_*.
#define ROUNDS 4u

#define E4M3_LARGEST 448.0f
#define E5M2_LARGEST 57344.0f
// A smaller largest value counts as this: one over it must be finite.
#define LEAST 7.8886091e-31f

// The larger of two magnitudes by their bits.
struct Magnitude {
    static DEVICE float identity() {
        return 0.0f;
    }
    static DEVICE float combine(float a, float b) {
        return __uint_as_float(max(__float_as_uint(a), __float_as_uint(b)));
    }
    static DEVICE float of(float x) {
        return __uint_as_float(__float_as_uint(x) & 0x7fffffffu);
    }
};

template <typename T>
DEVICE void largest(const T* x, u64 len, u64 piece, float* partial, float* scratch) {
    u64 first = blockIdx.x * piece, end = min(first + piece, len);
    float most = 0.0f;
    for (u64 i = first + threadIdx.x * RUN; i < end; i += 256 * RUN) {
        float v[RUN];
        load(x + i, v);
#pragma unroll
        for (u32 j = 0; j < RUN; ++j) {
            most = Magnitude::combine(most, Magnitude::of(v[j]));
        }
    }
    most = block_reduce<Magnitude, 256>(most, scratch);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = most;
    }
}

extern "C" __global__ __launch_bounds__(256) void largest_bf16(const bf16* x, u64 len, u64 piece, float* partial) {
    SHARED_MEMORY(float, scratch);
    largest(x, len, piece, partial, scratch);
}

extern "C" __global__ __launch_bounds__(256) void largest_f32(const float* x, u64 len, u64 piece, float* partial) {
    SHARED_MEMORY(float, scratch);
    largest(x, len, piece, partial, scratch);
}

// The factor for codes whose largest is LARGEST, known to every thread; the first block leaves the scale in memory.
DEVICE float factor_of(const float* partial, u32 pieces, float format_largest, float* scale, float* scratch) {
    float most = 0.0f;
    for (u32 i = threadIdx.x; i < pieces; i += 256) {
        most = Magnitude::combine(most, partial[i]);
    }
    most = block_reduce<Magnitude, 256>(most, scratch);
    most = __float_as_uint(most) >= 0x7f800000u ? NOT_A_NUMBER : fmaxf(most, LEAST);
    if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
        *scale = most / format_largest;
    }
    return format_largest / most;
}

struct E4m3 {
    static DEVICE u32 pack(float low, float high) {
        return pack_e4m3(low, high);
    }
};
struct E5m2 {
    static DEVICE u32 pack(float low, float high) {
        return pack_e5m2(low, high);
    }
};

// The codes of 16 neighbours.
template <typename Format>
DEVICE Vector<u8> codes_of(const float (&v)[RUN], float factor) {
    union {
        u32 word[4];
        Vector<u8> vector;
    } both;
#pragma unroll
    for (u32 j = 0; j < 4; ++j) {
        u32 low = Format::pack(v[4 * j] * factor, v[4 * j + 1] * factor);
        u32 high = Format::pack(v[4 * j + 2] * factor, v[4 * j + 3] * factor);
        both.word[j] = low | high << 16;
    }
    return both.vector;
}

template <typename Format>
DEVICE void quantise(
    const bf16* x, u64 len, const float* partial, u32 pieces, float format_largest, u8* codes, float* scale,
    float* scratch) {
    float factor = factor_of(partial, pieces, format_largest, scale, scratch);
    for (u32 round = 0; round < ROUNDS; ++round) {
        u64 at = ((u64(blockIdx.x) * ROUNDS + round) * 256 + threadIdx.x) * RUN;
        if (at < len) {
            float v[RUN];
            load(x + at, v);
            store_vector(codes + at, codes_of<Format>(v, factor));
        }
    }
}

extern "C" __global__ __launch_bounds__(256) void quantise_e4m3(
    const bf16* x, u64 len, const float* partial, u32 pieces, u8* codes, float* scale) {
    SHARED_MEMORY(float, scratch);
    quantise<E4m3>(x, len, partial, pieces, E4M3_LARGEST, codes, scale, scratch);
}

extern "C" __global__ __launch_bounds__(256) void quantise_e5m2(
    const bf16* x, u64 len, const float* partial, u32 pieces, u8* codes, float* scale) {
    SHARED_MEMORY(float, scratch);
    quantise<E5m2>(x, len, partial, pieces, E5M2_LARGEST, codes, scale, scratch);
}

// A side of quantise_matrix's tile, and bytes from one of its rows to the next: four more, so that the rows of a column lie
// in different banks.
#define TILE 64u
#define TILE_STRIDE 68u

// A block takes a tile of 64 x 64; each thread 16 neighbours of a row, then 16 of a column. `transposed` may be null.
extern "C" __global__ __launch_bounds__(256) void quantise_matrix(
    const float* x, u32 rows, u32 columns, const float* partial, u32 pieces, u8* codes, u8* transposed, float* scale) {
    SHARED_MEMORY(float, scratch);
    float factor = factor_of(partial, pieces, E4M3_LARGEST, scale, scratch);
    u8* tile = reinterpret_cast<u8*>(scratch + 8);
    u32 outer = threadIdx.x / 4, inner = threadIdx.x % 4 * RUN;
    u32 row = blockIdx.y * TILE + outer, column = blockIdx.x * TILE + inner;
    if (row < rows && column < columns) {
        float v[RUN];
        load(x + u64(row) * columns + column, v);
        Vector<u8> vector = codes_of<E4m3>(v, factor);
        store_vector(codes + u64(row) * columns + column, vector);
#pragma unroll
        for (u32 j = 0; j < RUN; ++j) {
            tile[outer * TILE_STRIDE + inner + j] = vector.lane[j];
        }
    }
    if (transposed == nullptr) {
        return;
    }
    __syncthreads();
    row = blockIdx.y * TILE + inner;
    column = blockIdx.x * TILE + outer;
    if (row < rows && column < columns) {
        Vector<u8> vector;
#pragma unroll
        for (u32 j = 0; j < RUN; ++j) {
            vector.lane[j] = tile[(inner + j) * TILE_STRIDE + outer];
        }
        store_vector(transposed + u64(column) * rows + row, vector);
    }
}
