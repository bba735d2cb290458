// For attention_rows.cu and attention_rows_backward.cu: a warp that scores a few rows of its own against 32 rows of others.
// Any storage type, any even head_dim up to 256. A head's elements are taken in pairs: lane l has pairs l, l + 32, ...

#define MOST_PAIRS 4u
// Elements of a row that are in shared memory at once.
#define CHUNK 64u
// One float more than a chunk: then 32 lanes that read one column of 32 rows touch 32 banks.
#define CHUNK_STRIDE 65u
#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f

DEVICE float2 load_pair(const float* at) {
    return *reinterpret_cast<const float2*>(at);
}
DEVICE float2 load_pair(const bf16* at) {
    u32 both = *reinterpret_cast<const u32*>(at);
    return make_float2(__uint_as_float(both << 16), __uint_as_float(both & 0xffff0000u));
}
DEVICE void store_pair(float* at, float x, float y) {
    *reinterpret_cast<float2*>(at) = make_float2(x, y);
}
DEVICE void store_pair(bf16* at, float x, float y) {
    *reinterpret_cast<u32*>(at) = pack_bf16(x, y);
}

// scores[r] = sum_d own[d * OWN + r] others[lane * stride + d]: lane l scores row l of `others`, of which there are `count`
// (at least 1; lanes beyond score the last again). `own` is shared memory; `staging` is 32 * CHUNK_STRIDE floats of it,
// for this warp alone and free again when the function returns.
template <u32 OWN, typename T>
DEVICE void score_rows(float (&scores)[OWN], const float* own, const T* others, u64 stride, u32 count, u32 head_dim,
                       float* staging) {
    u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (u32 r = 0; r < OWN; ++r) {
        scores[r] = 0.0f;
    }
    for (u32 start = 0; start < head_dim; start += CHUNK) {
        u32 width = min(CHUNK, head_dim - start);
        if (2 * lane < width) {
            const T* from = others + start + 2 * lane;
#pragma unroll 16
            for (u32 j = 0; j < WARP; ++j) {
                float2 pair = load_pair(from);
                from += j + 1 < count ? stride : 0;
                staging[j * CHUNK_STRIDE + 2 * lane] = pair.x;
                staging[j * CHUNK_STRIDE + 2 * lane + 1] = pair.y;
            }
        }
        __syncwarp();
        for (u32 d = 0; d < width; ++d) {
            float other = staging[lane * CHUNK_STRIDE + d];
            const float* column = own + (start + d) * OWN;
#pragma unroll
            for (u32 r = 0; r < OWN; ++r) {
                scores[r] += column[r] * other;
            }
        }
        __syncwarp();
    }
}
