// Quantised weights: products of few tokens, and restored rows for the others. BITS, 8 or 4, says which format.
//
// A row is blocks of 32 codes; a weight is (code - zero) * scale, exact in f32 (quantize.rs says what the headers mean).
//   codes [rows, blocks * 32] of BITS each; headers u16 [rows, blocks]; x S [tokens, columns]
// An 8-bit code is a signed byte. Of 4-bit codes, eight neighbours share a word: the first four in the lower halves of its
// bytes, the others in the upper.
//
// matvec_N: out[t, r] = sum over c of x[t, c] weight[r, c] (+ bias[r]), as in matvec.cu. A lane takes 16 codes of every 512:
// 16 bytes of q8, 8 of q4 (16 would set its reads of x 64 bytes apart, and half of each sector would be waste). Bytes: 34
// or 18 for 32 weights, once. FLOPs: 2 * tokens * rows * columns, and 2 for each weight.
//
// restore: rows first .. first + count as S [count, columns]. embedding: x[t, :] = weight[ids[t], :], f32. Both are bound by
// memory: BITS / 8 bytes read, 2 or 4 written a weight.

#define CODES 16u
#define BLOCK 32u
#define CODE_WORDS (CODES * BITS / 32)

struct Scale {
    float a;
    float b;
};

// A weight is a * code + b.
DEVICE Scale scale_of(u32 header) {
    Scale scale;
#if BITS == 8
    scale.a = __uint_as_float(header << 16);
    scale.b = 0.0f;
#else
    scale.a = __uint_as_float(((header >> 6) << 19) + (77u << 23));
    scale.b = -0.25f * static_cast<float>(header & 63u) * scale.a;
#endif
    return scale;
}

// 16 weights of a row, from its codes `16 part` on.
DEVICE void restore_part(const u32* codes, const u16* headers, u64 part, float (&w)[CODES]) {
#if BITS == 8
    uint4 raw = *reinterpret_cast<const uint4*>(codes + part * CODE_WORDS);
    u32 words[CODE_WORDS] = {raw.x, raw.y, raw.z, raw.w};
#else
    uint2 raw = *reinterpret_cast<const uint2*>(codes + part * CODE_WORDS);
    u32 words[CODE_WORDS] = {raw.x, raw.y};
#endif
    Scale scale = scale_of(headers[part / 2]);
#pragma unroll
    for (u32 i = 0; i < CODES; ++i) {
#if BITS == 8
        float code = static_cast<float>(static_cast<i32>(words[i / 4] << (24 - 8 * (i % 4))) >> 24);
#else
        float code = static_cast<float>(words[i / 8] >> (8 * (i % 4) + 4 * (i / 4 % 2)) & 15u);
#endif
        w[i] = fmaf(scale.a, code, scale.b);
    }
}

template <u32 TOKENS>
DEVICE void matvec(const S* x, const u32* codes, const u16* headers, const float* bias, void* out, u32 kind, u32 tokens,
                   u32 rows, u32 columns) {
    u32 row = blockIdx.x * ROWS + threadIdx.x / WARP;
    u32 lane = threadIdx.x % WARP;
    if (row >= rows) {
        return;
    }
    u32 parts = ceil_div(columns, BLOCK) * (BLOCK / CODES);
    float sum[TOKENS] = {};
#pragma unroll(TOKENS == 1 ? 4 : 1)
    for (u32 part = lane; part < parts; part += WARP) {
        float w[CODES];
        restore_part(codes, headers, u64(row) * parts + part, w);
        u32 first = part * CODES;
#pragma unroll
        for (u32 t = 0; t < TOKENS; ++t) {
            if (t < tokens) {
                const S* from = x + u64(t) * columns + first;
                float values[CODES];
                if (columns % WIDE == 0 && first + CODES <= columns) {
                    load(from, values);
                } else {
#pragma unroll
                    for (u32 i = 0; i < CODES; ++i) {
                        values[i] = first + i < columns ? to_float(from[i]) : 0.0f;
                    }
                }
                add_products(w, values, sum[t]);
            }
        }
    }
    write_sums(sum, bias, out, kind, tokens, rows, row);
}

extern "C" __global__ __launch_bounds__(128) void matvec_1(const S* x, const u32* codes, const u16* headers,
    const float* bias, void* out, u32 kind, u32 tokens, u32 rows, u32 columns) {
    matvec<1>(x, codes, headers, bias, out, kind, tokens, rows, columns);
}
extern "C" __global__ __launch_bounds__(128) void matvec_2(const S* x, const u32* codes, const u16* headers,
    const float* bias, void* out, u32 kind, u32 tokens, u32 rows, u32 columns) {
    matvec<2>(x, codes, headers, bias, out, kind, tokens, rows, columns);
}
extern "C" __global__ __launch_bounds__(128) void matvec_4(const S* x, const u32* codes, const u16* headers,
    const float* bias, void* out, u32 kind, u32 tokens, u32 rows, u32 columns) {
    matvec<4>(x, codes, headers, bias, out, kind, tokens, rows, columns);
}
extern "C" __global__ __launch_bounds__(128) void matvec_8(const S* x, const u32* codes, const u16* headers,
    const float* bias, void* out, u32 kind, u32 tokens, u32 rows, u32 columns) {
    matvec<8>(x, codes, headers, bias, out, kind, tokens, rows, columns);
}

// A row by all threads of a block.
template <typename T>
DEVICE void restore_row(const u32* codes, const u16* headers, u64 row, T* to, u32 columns) {
    u32 parts = ceil_div(columns, BLOCK) * (BLOCK / CODES);
    for (u32 part = threadIdx.x; part < parts; part += blockDim.x) {
        float w[CODES];
        restore_part(codes, headers, row * parts + part, w);
        u32 first = part * CODES;
        if (columns % WIDE == 0 && first + CODES <= columns) {
            store(to + first, w);
        } else {
#pragma unroll
            for (u32 i = 0; i < CODES; ++i) {
                if (first + i < columns) {
                    to[first + i] = from_float<T>(w[i]);
                }
            }
        }
    }
}

extern "C" __global__ __launch_bounds__(128) void restore(
    const u32* codes, const u16* headers, S* to, u32 first, u32 columns) {
    restore_row(codes, headers, u64(first) + blockIdx.x, to + u64(blockIdx.x) * columns, columns);
}

extern "C" __global__ __launch_bounds__(128) void embedding(
    const u32* codes, const u16* headers, const u32* ids, float* x, u32 columns) {
    restore_row(codes, headers, ids[blockIdx.x], x + u64(blockIdx.x) * columns, columns);
}
