// Causal grouped-query attention within spans, bf16, on tensor cores (Dao 2023, arXiv 2307.08691).
//
//   S = Q Kᵀ / sqrt(d), row i of a span seeing keys 0 ..= kv_len - q_len + i;  O = softmax(S) V;  lse[i] = log sum_j exp S[i, j]
//
// q, out: bf16 [rows, n_head * HEAD_DIM]; k, v: bf16 [slots, n_kv_head * HEAD_DIM]; lse: f32 [rows, n_head] or null.
// A block takes one item, a tile of BLOCK_ROWS queries of a span, and one head: 4 warps of 16 ROW_TILES rows each, which
// walk over the visible keys in tiles of BLOCK_KEYS, online softmax in registers, in base 2. While scores are computed the
// tile of values is on its way, and the next tile of keys while the values are summed.
// FLOPs: 4 d a visible pair. Bytes: q and out once; k and v once a tile of queries and head, most of it from L2.
// Shared memory: (BLOCK_ROWS + 2 BLOCK_KEYS) HEAD_DIM 2 = 32 KiB (64) or 48 KiB (128): two blocks or more a multiprocessor.

#define THREADS 128u
#define BLOCK_KEYS 64u
#if HEAD_DIM == 64
#define ROW_TILES 2u
#else
#define ROW_TILES 1u
#endif
#define WARP_ROWS (16u * ROW_TILES)
#define BLOCK_ROWS (4u * WARP_ROWS)

// items: [q_start, q_len, kv_start, kv_len, tile, 0, 0, 0] each. scale: log2(e) / sqrt(d).
extern "C" __global__ __launch_bounds__(THREADS) void attention_forward(const bf16* q, const bf16* k, const bf16* v,
                                                                       bf16* out, float* lse, const u32* items, u32 n_head,
                                                                       u32 n_kv_head, float scale) {
    SHARED_MEMORY(bf16, queries);
    bf16* keys = queries + BLOCK_ROWS * HEAD_DIM;
    bf16* values = keys + BLOCK_KEYS * HEAD_DIM;
    const u32* item = items + blockIdx.x / n_head * 8;
    u32 head = blockIdx.x % n_head, kv_head = head / (n_head / n_kv_head);
    u32 q_len = item[1], kv_len = item[3], first = item[4] * BLOCK_ROWS;
    u64 q_stride = static_cast<u64>(n_head) * HEAD_DIM, kv_stride = static_cast<u64>(n_kv_head) * HEAD_DIM;
    q += item[0] * q_stride + head * HEAD_DIM;
    out += item[0] * q_stride + head * HEAD_DIM;
    k += item[2] * kv_stride + kv_head * HEAD_DIM;
    v += item[2] * kv_stride + kv_head * HEAD_DIM;
    // Query i sees keys 0 ..= past + i.
    u32 past = kv_len - q_len;
    u32 end = min(first + BLOCK_ROWS, q_len);
    u32 tiles = (past + end - 1) / BLOCK_KEYS + 1;

    load_tile<BLOCK_ROWS, THREADS>(queries, q, q_stride, first, q_len);
    load_tile<BLOCK_KEYS, THREADS>(keys, k, kv_stride, 0, kv_len);
    copy_async_commit();

    u32 lane = threadIdx.x % WARP, group = lane / 4, place = lane % 4;
    u32 warp_row = threadIdx.x / WARP * WARP_ROWS;
    // Rows behind the last see what the last sees; they are not stored.
    u32 limit[ROW_TILES][2];
    float largest[ROW_TILES][2], total[ROW_TILES][2], sums[ROW_TILES][HEAD_DIM / 8][4];
#pragma unroll
    for (u32 m = 0; m < ROW_TILES; ++m) {
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            limit[m][half] = past + min(first + warp_row + 16 * m + 8 * half + group, q_len - 1);
            largest[m][half] = -INFINITE;
            total[m][half] = 0.0f;
        }
#pragma unroll
        for (u32 n = 0; n < HEAD_DIM / 8; ++n) {
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                sums[m][n][i] = 0.0f;
            }
        }
    }
    u32 least_limit = past + min(first + warp_row, q_len - 1);
    u32 most_limit = past + min(first + warp_row + WARP_ROWS - 1, q_len - 1);

    copy_async_wait<0>();
    __syncthreads();
    u32 left[ROW_TILES][STEPS][4];
#pragma unroll
    for (u32 m = 0; m < ROW_TILES; ++m) {
#pragma unroll
        for (u32 step = 0; step < STEPS; ++step) {
            load_left(left[m][step], queries, warp_row + 16 * m, step);
        }
    }

    for (u32 tile = 0; tile < tiles; ++tile) {
        u32 key = tile * BLOCK_KEYS;
        // A warp whose rows see nothing of the last tile goes along for the copies.
        bool sees = key <= most_limit;
        load_tile<BLOCK_KEYS, THREADS>(values, v, kv_stride, key, kv_len);
        copy_async_commit();

        float scores[ROW_TILES][BLOCK_KEYS / 8][4];
        if (sees) {
#pragma unroll
            for (u32 n = 0; n < BLOCK_KEYS / 8; ++n) {
#pragma unroll
                for (u32 m = 0; m < ROW_TILES; ++m) {
#pragma unroll
                    for (u32 i = 0; i < 4; ++i) {
                        scores[m][n][i] = 0.0f;
                    }
                }
#pragma unroll
                for (u32 step = 0; step < STEPS; step += 2) {
                    u32 right[4];
                    load_right_transposed(right, keys, n * 8, step);
#pragma unroll
                    for (u32 m = 0; m < ROW_TILES; ++m) {
                        mma_m16n8k16(scores[m][n], left[m][step], right[0], right[1]);
                        mma_m16n8k16(scores[m][n], left[m][step + 1], right[2], right[3]);
                    }
                }
            }
        }

        // The values are here, and no one reads the keys any more.
        copy_async_wait<0>();
        __syncthreads();
        if (tile + 1 < tiles) {
            load_tile<BLOCK_KEYS, THREADS>(keys, k, kv_stride, key + BLOCK_KEYS, kv_len);
            copy_async_commit();
        }

        if (sees) {
            bool masked = key + BLOCK_KEYS - 1 > least_limit;
#pragma unroll
            for (u32 m = 0; m < ROW_TILES; ++m) {
#pragma unroll
                for (u32 half = 0; half < 2; ++half) {
                    float top = largest[m][half];
#pragma unroll
                    for (u32 n = 0; n < BLOCK_KEYS / 8; ++n) {
#pragma unroll
                        for (u32 i = 2 * half; i < 2 * half + 2; ++i) {
                            float score = scores[m][n][i] * scale;
                            if (masked && key + n * 8 + 2 * place + i % 2 > limit[m][half]) {
                                score = -INFINITE;
                            }
                            scores[m][n][i] = score;
                            top = fmaxf(top, score);
                        }
                    }
                    top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 1));
                    top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 2));
                    // Every row sees key 0, so that the maximum is finite from the first tile on.
                    float shrink = exp2_approximate(largest[m][half] - top);
                    largest[m][half] = top;
                    float part = 0.0f;
#pragma unroll
                    for (u32 n = 0; n < BLOCK_KEYS / 8; ++n) {
#pragma unroll
                        for (u32 i = 2 * half; i < 2 * half + 2; ++i) {
                            scores[m][n][i] = exp2_approximate(scores[m][n][i] - top);
                            part += scores[m][n][i];
                        }
                    }
                    total[m][half] = total[m][half] * shrink + part;
#pragma unroll
                    for (u32 n = 0; n < HEAD_DIM / 8; ++n) {
                        sums[m][n][2 * half] *= shrink;
                        sums[m][n][2 * half + 1] *= shrink;
                    }
                }
            }
#pragma unroll
            for (u32 step = 0; step < BLOCK_KEYS / 16; ++step) {
                // What two blocks of scores hold is what the left operand of a step holds.
                u32 weights[ROW_TILES][4];
#pragma unroll
                for (u32 m = 0; m < ROW_TILES; ++m) {
#pragma unroll
                    for (u32 i = 0; i < 4; ++i) {
                        const float(&block)[4] = scores[m][2 * step + i / 2];
                        weights[m][i] = pack_bf16(block[i % 2 * 2], block[i % 2 * 2 + 1]);
                    }
                }
#pragma unroll
                for (u32 n = 0; n < HEAD_DIM / 8; n += 2) {
                    u32 right[4];
                    load_right(right, values, step * 16, n);
#pragma unroll
                    for (u32 m = 0; m < ROW_TILES; ++m) {
                        mma_m16n8k16(sums[m][n], weights[m], right[0], right[1]);
                        mma_m16n8k16(sums[m][n + 1], weights[m], right[2], right[3]);
                    }
                }
            }
        }

        if (tile + 1 < tiles) {
            // The next keys are here, and no one reads the values any more.
            copy_async_wait<0>();
            __syncthreads();
        }
    }

#pragma unroll
    for (u32 m = 0; m < ROW_TILES; ++m) {
        float factor[2];
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            float sum = total[m][half];
            sum += __shfl_xor_sync(ALL_LANES, sum, 1);
            sum += __shfl_xor_sync(ALL_LANES, sum, 2);
            factor[half] = 1.0f / sum;
            u32 row = first + warp_row + 16 * m + 8 * half + group;
            if (lse && place == 0 && row < q_len) {
                lse[static_cast<u64>(item[0] + row) * n_head + head] = largest[m][half] * LN_2 + logf(sum);
            }
        }
        u32 row = warp_row + 16 * m;
        store_rows(sums[m], factor, queries, row, out, q_stride, first + row, q_len);
    }
}
