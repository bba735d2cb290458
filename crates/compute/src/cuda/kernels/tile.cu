// Tiles of rows of HEAD_DIM bf16 in shared memory, for attention_forward.cu and attention_backward.cu, and products with them.
//
// A row is HEAD_DIM / 8 chunks of 16 bytes. Chunk c of row r lies where chunk c ^ (r % 8) would: the eight rows that one
// matrix of an ldmatrix reads then touch all 32 banks once, and no byte is spent on padding.

#define CHUNKS (HEAD_DIM / 8u)
// Steps of 16 along the head's width: the k of one mma.
#define STEPS (HEAD_DIM / 16u)
#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f

// Where a chunk begins, in elements.
DEVICE u32 chunk_at(u32 row, u32 chunk) {
    return row * HEAD_DIM + (chunk ^ (row % 8u)) * 8u;
}

// Starts to copy rows first .. first + ROWS of a sequence, `stride` elements apart, to a tile; rows from `end` on become
// zeros, whatever lies there. The caller commits.
template <u32 ROWS, u32 THREADS_OF_BLOCK>
DEVICE void load_tile(bf16* tile, const bf16* sequence, u64 stride, u32 first, u32 end) {
    // A thread copies the same chunk of every STEP-th row: to the same place in the swizzle, which repeats every 8 rows.
    const u32 STEP = THREADS_OF_BLOCK / CHUNKS;
    static_assert(STEP % 8 == 0 && ROWS % STEP == 0, "whole swizzles, whole steps");
    u32 row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    bf16* to = tile + chunk_at(row, chunk);
    const bf16* from = sequence + (first + row) * stride + chunk * 8;
#pragma unroll
    for (u32 i = 0; i < ROWS; i += STEP) {
        bool inside = first + row + i < end;
        copy_async_16(to + i * HEAD_DIM, inside ? from : sequence, inside);
        from += STEP * stride;
    }
}

// The left operand of an mma: 16 rows of a tile from `row` on, elements 16 step .. 16 step + 16.
DEVICE void load_left(u32 (&a)[4], const bf16* tile, u32 row, u32 step) {
    u32 lane = threadIdx.x % WARP;
    ldmatrix_x4(a, tile + chunk_at(row + lane % 16, step * 2 + lane / 16));
}
// The right operands of two steps where the tile's rows are the result's columns (a bᵀ): 8 rows from `row` on, elements
// 16 step .. 16 step + 32; b[0], b[1] belong to the first step and b[2], b[3] to the second.
DEVICE void load_right_transposed(u32 (&b)[4], const bf16* tile, u32 row, u32 step) {
    u32 lane = threadIdx.x % WARP;
    ldmatrix_x4(b, tile + chunk_at(row + lane % 8, step * 2 + lane / 8));
}
// The right operands of two blocks of 8 columns where the tile's rows are summed over (a b): 16 rows from `row` on, elements
// 8 column .. 8 column + 16; b[0], b[1] belong to the first block and b[2], b[3] to the second.
DEVICE void load_right(u32 (&b)[4], const bf16* tile, u32 row, u32 column) {
    u32 lane = threadIdx.x % WARP;
    ldmatrix_x4_transposed(b, tile + chunk_at(row + lane % 16, column + lane / 16));
}

// What 16 x 16 BLOCKS / 2 sums are, rounded, as the left operands of so many steps: two blocks of 8 columns hold what a step wants.
template <u32 BLOCKS>
DEVICE void pack_left(u32 (&a)[BLOCKS / 2][4], const float (&sums)[BLOCKS][4]) {
#pragma unroll
    for (u32 step = 0; step < BLOCKS / 2; ++step) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            const float(&block)[4] = sums[2 * step + i / 2];
            a[step][i] = pack_bf16(block[i % 2 * 2], block[i % 2 * 2 + 1]);
        }
    }
}

// Whether products are started by whole warpgroups, and waited for.
#if defined(WARPGROUPS) && HEAD_DIM == 64
#define ASYNCHRONOUS 1
// Starts sums[16, 64] = left times the transpose of a tile of 64 rows.
DEVICE void start_product_transposed(float (&sums)[8][4], const u32 (&left)[4][4], const bf16* right) {
    u64 b = warpgroup_operand<0>(right);
#pragma unroll
    for (u32 step = 0; step < 4; ++step) {
        warpgroup_mma<0>(sums, left[step], b + step * 2, step > 0);
    }
}
// The same with the left operand in a tile too, of which the warpgroup has 64 rows.
DEVICE void start_product_transposed(float (&sums)[8][4], u64 left, const bf16* right) {
    u64 b = warpgroup_operand<0>(right);
#pragma unroll
    for (u32 step = 0; step < 4; ++step) {
        warpgroup_mma_shared(sums, left + step * 2, b + step * 2, step > 0);
    }
}
// Starts sums[16, 64] += left[16, 64] times a tile of 64 rows.
DEVICE void start_product(float (&sums)[8][4], const u32 (&left)[4][4], const bf16* right) {
    u64 b = warpgroup_operand<1>(right);
#pragma unroll
    for (u32 step = 0; step < 4; ++step) {
        warpgroup_mma<1>(sums, left[step], b + step * HEAD_DIM * 2, 1);
    }
}
#else
#define ASYNCHRONOUS 0
#endif

// Rounds a warp's 16 x HEAD_DIM sums, times factor[0] for the upper eight rows and factor[1] for the lower, and writes rows
// first .. min(first + 16, end) of a sequence in 16-byte pieces. The rows pass through rows row .. row + 16 of a tile, which
// no other warp may be using.
DEVICE void store_rows(const float (&sums)[HEAD_DIM / 8][4], const float (&factor)[2], bf16* tile, u32 row, bf16* sequence,
                       u64 stride, u32 first, u32 end) {
    u32 lane = threadIdx.x % WARP, group = lane / 4, place = lane % 4;
#pragma unroll
    for (u32 n = 0; n < HEAD_DIM / 8; ++n) {
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            u32 pair = pack_bf16(sums[n][2 * half] * factor[half], sums[n][2 * half + 1] * factor[half]);
            *reinterpret_cast<u32*>(tile + chunk_at(row + group + 8 * half, n) + 2 * place) = pair;
        }
    }
    __syncwarp();
#pragma unroll
    for (u32 i = 0; i < 16 * CHUNKS; i += WARP) {
        u32 r = (i + lane) / CHUNKS, chunk = (i + lane) % CHUNKS;
        if (first + r < end) {
            store_vector(sequence + (first + r) * stride + chunk * 8, load_vector(tile + chunk_at(row + r, chunk)));
        }
    }
}
