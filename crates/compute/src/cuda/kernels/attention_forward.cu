// Causal grouped-query attention within spans, bf16, on tensor cores (Dao 2023, arXiv 2307.08691).
//
//   S = Q Kᵀ / sqrt(d), row i of a span seeing keys 0 ..= kv_len - q_len + i;  O = softmax(S) V;  lse[i] = log sum_j exp S[i, j]
//
// q, out: bf16 [rows, n_head * HEAD_DIM]; k, v: bf16 [slots, n_kv_head * HEAD_DIM]; lse: f32 [rows, n_head] or null.
// A block takes one item, a tile of BLOCK_ROWS queries of a span, and one head: 4 warps of 16 ROW_TILES rows each, which
// walk over the visible keys in tiles of BLOCK_KEYS, online softmax in registers, in base 2. While scores are computed the
// tile of values is on its way, and the next tile of keys while the values are summed. Where products are started by
// warpgroups (tile.cu) a warp's tiles of 16 rows are 64 apart, the softmax of one goes on during the products of the other,
// and keys and values come together, in three stages: at work, on their way, and products of the last not yet done.
// FLOPs: 4 d a visible pair. Bytes: q and out once; k and v once a tile of queries and head, most of it from L2.
// Shared memory: 48 KiB, of which heads of 64 use 32 without warpgroups: two blocks or more a multiprocessor.

#define THREADS 128u
#define BLOCK_KEYS 64u
#if HEAD_DIM == 64
#define ROW_TILES 2u
#else
#define ROW_TILES 1u
#endif
#define BLOCK_ROWS (64u * ROW_TILES)
#if ASYNCHRONOUS
#define STAGES 3u
// From a warp's first row to the next warp's, and from one of its tiles to the next.
#define WARP_ROWS 16u
#define TILE_STRIDE 64u
#else
#define WARP_ROWS (16u * ROW_TILES)
#define TILE_STRIDE 16u
#endif

// Takes a warp's 16 rows of scores of the keys from `key` on into the online softmax: the largest score so far, unscaled, and
// the sum of weights, of rows group and group + 8; weights in the scores' place, earlier sums of values shrunk to suit.
DEVICE void absorb(float (&scores)[BLOCK_KEYS / 8][4], float (&sums)[HEAD_DIM / 8][4], float (&largest)[2], float (&total)[2],
                   const u32 (&limit)[2], u32 key, bool masked, float scale) {
    u32 place = threadIdx.x % 4;
    if (masked) {
#pragma unroll
        for (u32 n = 0; n < BLOCK_KEYS / 8; ++n) {
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                bool hidden = key + n * 8 + 2 * place + i % 2 > limit[i / 2];
                scores[n][i] = hidden ? -INFINITE : scores[n][i];
            }
        }
    }
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        float top = largest[half];
#pragma unroll
        for (u32 n = 0; n < BLOCK_KEYS / 8; ++n) {
            top = fmaxf(top, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
        }
        top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 1));
        top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 2));
        // Every row sees key 0, so that the maximum is finite from the first tile on.
        float shrink = exp2_approximate((largest[half] - top) * scale);
        largest[half] = top;
        float offset = top * scale, part = 0.0f;
#pragma unroll
        for (u32 n = 0; n < BLOCK_KEYS / 8; ++n) {
#pragma unroll
            for (u32 i = 2 * half; i < 2 * half + 2; ++i) {
                scores[n][i] = exp2_approximate(scores[n][i] * scale - offset);
                part += scores[n][i];
            }
        }
        total[half] = total[half] * shrink + part;
#pragma unroll
        for (u32 n = 0; n < HEAD_DIM / 8; ++n) {
            sums[n][2 * half] *= shrink;
            sums[n][2 * half + 1] *= shrink;
        }
    }
}

// items: [q_start, q_len, kv_start, kv_len, tile, 0, 0, 0] each. scale: log2(e) / sqrt(d).
extern "C" __global__ __launch_bounds__(THREADS) void attention_forward(const bf16* q, const bf16* k, const bf16* v,
                                                                       bf16* out, float* lse, const u32* items, u32 n_head,
                                                                       u32 n_kv_head, float scale) {
    SHARED_MEMORY(bf16, stages);
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

#if ASYNCHRONOUS
    const u32 STAGE = 2 * BLOCK_KEYS * HEAD_DIM;
    static_assert(BLOCK_ROWS * HEAD_DIM <= STAGE, "queries pass through one stage");
    auto stage_of = [&](u32 tile) { return stages + tile % STAGES * STAGE; };
    // Until the third tile is asked for.
    bf16* queries = stage_of(2);
    auto prefetch = [&](u32 tile) {
        bf16* keys = stage_of(tile);
        load_tile<BLOCK_KEYS, THREADS>(keys, k, kv_stride, tile * BLOCK_KEYS, kv_len);
        load_tile<BLOCK_KEYS, THREADS>(keys + BLOCK_KEYS * HEAD_DIM, v, kv_stride, tile * BLOCK_KEYS, kv_len);
        copy_async_commit();
    };
    load_tile<BLOCK_ROWS, THREADS>(queries, q, q_stride, first, q_len);
    prefetch(0);
#else
    bf16* queries = stages;
    bf16* keys = queries + BLOCK_ROWS * HEAD_DIM;
    bf16* values = keys + BLOCK_KEYS * HEAD_DIM;
    load_tile<BLOCK_ROWS, THREADS>(queries, q, q_stride, first, q_len);
    load_tile<BLOCK_KEYS, THREADS>(keys, k, kv_stride, 0, kv_len);
    copy_async_commit();
#endif

    u32 lane = threadIdx.x % WARP, group = lane / 4, place = lane % 4;
    u32 warp_row = threadIdx.x / WARP * WARP_ROWS;
    // Rows behind the last see what the last sees; they are not stored.
    u32 limit[ROW_TILES][2];
    float largest[ROW_TILES][2], total[ROW_TILES][2], sums[ROW_TILES][HEAD_DIM / 8][4];
#pragma unroll
    for (u32 m = 0; m < ROW_TILES; ++m) {
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            limit[m][half] = past + min(first + warp_row + TILE_STRIDE * m + 8 * half + group, q_len - 1);
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

    copy_async_wait<0>();
#if ASYNCHRONOUS
    warpgroup_publish();
#endif
    __syncthreads();
    u32 left[ROW_TILES][STEPS][4];
#pragma unroll
    for (u32 m = 0; m < ROW_TILES; ++m) {
#pragma unroll
        for (u32 step = 0; step < STEPS; ++step) {
            load_left(left[m][step], queries, warp_row + TILE_STRIDE * m, step);
        }
    }

#if ASYNCHRONOUS
    // The scores of one half of the rows are at work during the softmax of the other.
    float scores[ROW_TILES][BLOCK_KEYS / 8][4];
    u32 tile = 0;
    auto start_scores = [&](u32 m, u32 tile) {
        warpgroup_fence();
        start_product_transposed(scores[m], left[m], stage_of(tile));
        warpgroup_commit();
    };
    auto finish = [&](u32 m) {
        u32 key = tile * BLOCK_KEYS;
        warpgroup_hold(scores[m]);
        warpgroup_hold(sums[m]);
        bool masked = key + BLOCK_KEYS - 1 > past + first + TILE_STRIDE * m + warp_row;
        absorb(scores[m], sums[m], largest[m], total[m], limit[m], key, masked, scale);
        u32 weights[BLOCK_KEYS / 16][4];
        pack_left(weights, scores[m]);
        warpgroup_fence();
        start_product(sums[m], weights, stage_of(tile) + BLOCK_KEYS * HEAD_DIM);
        warpgroup_commit();
    };
    if (tiles > 1) {
        prefetch(1);
    }
    warpgroup_hold(sums[0]);
    warpgroup_hold(sums[1]);
    start_scores(0, 0);
    for (;; ++tile) {
        // The first half's scores. (Sums of the last tile too: with them at work ptxas would wait for each product on its own, its
        // warning C7514.)
        warpgroup_wait<0>();
        start_scores(1, tile);
        finish(0);
        // The second half's scores.
        warpgroup_wait<1>();
        if (tile + 1 == tiles) {
            finish(1);
            break;
        }
        copy_async_wait<0>();
        warpgroup_publish();
        __syncthreads();
        if (tile + 2 < tiles) {
            prefetch(tile + 2);
        }
        start_scores(0, tile + 1);
        finish(1);
    }
    warpgroup_wait<0>();
#pragma unroll
    for (u32 m = 0; m < ROW_TILES; ++m) {
        warpgroup_hold(sums[m]);
    }
    // Others may still read the stages.
    __syncthreads();
#else
    u32 least_limit = past + min(first + warp_row, q_len - 1);
    u32 most_limit = past + min(first + warp_row + WARP_ROWS - 1, q_len - 1);
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
            u32 weights[ROW_TILES][BLOCK_KEYS / 16][4];
#pragma unroll
            for (u32 m = 0; m < ROW_TILES; ++m) {
                absorb(scores[m], sums[m], largest[m], total[m], limit[m], key, masked, scale);
                pack_left(weights[m], scores[m]);
            }
#pragma unroll
            for (u32 step = 0; step < BLOCK_KEYS / 16; ++step) {
#pragma unroll
                for (u32 n = 0; n < HEAD_DIM / 8; n += 2) {
                    u32 right[4];
                    load_right(right, values, step * 16, n);
#pragma unroll
                    for (u32 m = 0; m < ROW_TILES; ++m) {
                        mma_m16n8k16(sums[m][n], weights[m][step], right[0], right[1]);
                        mma_m16n8k16(sums[m][n + 1], weights[m][step], right[2], right[3]);
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
#endif

#pragma unroll
    for (u32 m = 0; m < ROW_TILES; ++m) {
        float factor[2];
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            float sum = total[m][half];
            sum += __shfl_xor_sync(ALL_LANES, sum, 1);
            sum += __shfl_xor_sync(ALL_LANES, sum, 2);
            factor[half] = 1.0f / sum;
            u32 row = first + warp_row + TILE_STRIDE * m + 8 * half + group;
            if (lse && place == 0 && row < q_len) {
                lse[static_cast<u64>(item[0] + row) * n_head + head] = largest[m][half] * scale * LN_2 + logf(sum);
            }
        }
        u32 row = warp_row + TILE_STRIDE * m;
        store_rows(sums[m], factor, stages, row, out, q_stride, first + row, q_len);
    }
}
