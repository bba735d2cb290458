// Gradients of causal grouped-query attention within spans, bf16, on tensor cores (Dao 2023, arXiv 2307.08691), in two
// kernels, so that every sum has one owner and one order; atomics would save one of the seven products and the order.
//
//   P = exp(S - lse);  dV = Pᵀ dO;  dP = dO Vᵀ;  dS = P (dP - delta);  dQ = dS K / sqrt(d);  dK = dSᵀ Q / sqrt(d)
//
// with S as in attention_forward.cu and delta[i] = sum_d dO[i, d] O[i, d] (attention_delta of attention_rows_backward.cu).
// q, d_out, dq: bf16 [rows, n_head * HEAD_DIM]; k, v, dk, dv: bf16 [slots, n_kv_head * HEAD_DIM]; lse, delta: f32 [rows, n_head].
// FLOPs a visible pair and head: 8 d for keys, 6 d for queries.
//
// Both keep what they own as the left operand: then the probabilities and score gradients of a tile come out of one mma in
// the registers in which the next mma wants its left operand, and never pass through shared memory.

// Where products are started by warpgroups (tile.cu), those of a tile go on while the next tile's begin: hence more stages.

#if HEAD_DIM == 64
#define KEY_WARPS 8u
#define QUERY_WARPS 8u
#define TILE_QUERIES 64u
#define TILE_KEYS 64u
#else
// 64 KiB of keys and values, 32 KiB of queries on the way: all that sm_86 has.
#define KEY_WARPS 8u
#define QUERY_WARPS 4u
#define TILE_QUERIES 32u
#define TILE_KEYS 32u
#endif
#define KEY_THREADS (KEY_WARPS * 32u)
#define BLOCK_KEYS (KEY_WARPS * 16u)
#define QUERY_THREADS (QUERY_WARPS * 32u)
#define BLOCK_QUERIES (QUERY_WARPS * 16u)
#if ASYNCHRONOUS
#define STAGES 4u
// Rows of those who must do the same products together.
#define UNIT_ROWS 64u
#else
#define STAGES 2u
#define UNIT_ROWS 16u
#endif

// sums[16, 8 BLOCKS] = left (16 rows of a tile from `row` on) times the transpose of 8 BLOCKS rows of another tile.
template <u32 BLOCKS>
DEVICE void product_transposed(float (&sums)[BLOCKS][4], const bf16* left, u32 row, const bf16* right) {
#pragma unroll
    for (u32 n = 0; n < BLOCKS; ++n) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            sums[n][i] = 0.0f;
        }
    }
#pragma unroll
    for (u32 step = 0; step < STEPS; step += 2) {
        u32 a[2][4];
        load_left(a[0], left, row, step);
        load_left(a[1], left, row, step + 1);
#pragma unroll
        for (u32 n = 0; n < BLOCKS; ++n) {
            u32 b[4];
            load_right_transposed(b, right, n * 8, step);
            mma_m16n8k16(sums[n], a[0], b[0], b[1]);
            mma_m16n8k16(sums[n], a[1], b[2], b[3]);
        }
    }
}
// The same with the left operand in registers.
template <u32 BLOCKS>
DEVICE void product_transposed(float (&sums)[BLOCKS][4], const u32 (&left)[STEPS][4], const bf16* right) {
#pragma unroll
    for (u32 n = 0; n < BLOCKS; ++n) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            sums[n][i] = 0.0f;
        }
#pragma unroll
        for (u32 step = 0; step < STEPS; step += 2) {
            u32 b[4];
            load_right_transposed(b, right, n * 8, step);
            mma_m16n8k16(sums[n], left[step], b[0], b[1]);
            mma_m16n8k16(sums[n], left[step + 1], b[2], b[3]);
        }
    }
}
// sums[16, HEAD_DIM] += weights[16, 8 BLOCKS], rounded, times 8 BLOCKS rows of a tile.
template <u32 BLOCKS>
DEVICE void accumulate_product(float (&sums)[HEAD_DIM / 8][4], const float (&weights)[BLOCKS][4], const bf16* right) {
    u32 a[BLOCKS / 2][4];
    pack_left(a, weights);
#pragma unroll
    for (u32 step = 0; step < BLOCKS / 2; ++step) {
#pragma unroll
        for (u32 n = 0; n < HEAD_DIM / 8; n += 2) {
            u32 b[4];
            load_right(b, right, step * 16, n);
            mma_m16n8k16(sums[n], a[step], b[0], b[1]);
            mma_m16n8k16(sums[n + 1], a[step], b[2], b[3]);
        }
    }
}

DEVICE void set_zero(float (&sums)[HEAD_DIM / 8][4]) {
#pragma unroll
    for (u32 n = 0; n < HEAD_DIM / 8; ++n) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            sums[n][i] = 0.0f;
        }
    }
}

// Makes a thread's copies visible to all, and to the matrix unit.
DEVICE void arrive() {
    copy_async_wait<0>();
#if ASYNCHRONOUS
    warpgroup_publish();
#endif
    __syncthreads();
}

// A block owns BLOCK_KEYS keys of one key head, 16 a warp, and walks over the queries that see them, query head after query
// head of the group, tiles of queries in shared memory: one at work, one on its way.
// items: [q_start, len, kv_start, len, tile, 0, 0, 0] each: spans have as many keys as queries. score_scale: log2(e) / sqrt(d);
// scale: 1 / sqrt(d).
extern "C" __global__ __launch_bounds__(KEY_THREADS) void attention_backward_keys(
    const bf16* q, const bf16* k, const bf16* v, const float* lse, const float* delta, const bf16* d_out, bf16* dk, bf16* dv,
    const u32* items, u32 n_head, u32 n_kv_head, float score_scale, float scale) {
    SHARED_MEMORY(bf16, keys);
    bf16* values = keys + BLOCK_KEYS * HEAD_DIM;
    bf16* stages = values + BLOCK_KEYS * HEAD_DIM;
    const u32 STAGE = 2 * TILE_QUERIES * HEAD_DIM;
    // Log-sum-exp in base 2 and delta of a tile's queries, for each stage.
    float* statistics = reinterpret_cast<float*>(stages + STAGES * STAGE);

    const u32* item = items + blockIdx.x / n_kv_head * 8;
    u32 kv_head = blockIdx.x % n_kv_head, group_heads = n_head / n_kv_head;
    u32 len = item[1], first = item[4] * BLOCK_KEYS;
    u64 q_stride = static_cast<u64>(n_head) * HEAD_DIM, kv_stride = static_cast<u64>(n_kv_head) * HEAD_DIM;
    u64 q_offset = item[0] * q_stride, kv_offset = item[2] * kv_stride + kv_head * HEAD_DIM;

    load_tile<BLOCK_KEYS, KEY_THREADS>(keys, k + kv_offset, kv_stride, first, len);
    load_tile<BLOCK_KEYS, KEY_THREADS>(values, v + kv_offset, kv_stride, first, len);

    // The first query of the first tile that sees the first key, and the rounds from there on for the heads of the group.
    u32 first_query = first / TILE_QUERIES * TILE_QUERIES;
    u32 rounds = ceil_div(len - first_query, TILE_QUERIES) * group_heads;

    auto stage_of = [&](u32 round) { return stages + round % STAGES * STAGE; };
    auto statistic_of = [&](u32 round) { return statistics + round % STAGES * 2 * TILE_QUERIES; };
    // What is asked for next.
    u32 next = 0, next_head = kv_head * group_heads, next_query = first_query;
    float log_sum = 0.0f, row_delta = 0.0f;
    auto prefetch = [&]() {
        bf16* stage = stage_of(next);
        u64 offset = q_offset + next_head * HEAD_DIM;
        load_tile<TILE_QUERIES, KEY_THREADS>(stage, q + offset, q_stride, next_query, len);
        load_tile<TILE_QUERIES, KEY_THREADS>(stage + TILE_QUERIES * HEAD_DIM, d_out + offset, q_stride, next_query, len);
        copy_async_commit();
        if (threadIdx.x < TILE_QUERIES) {
            bool inside = next_query + threadIdx.x < len;
            u64 at = static_cast<u64>(item[0] + next_query + threadIdx.x) * n_head + next_head;
            // Rows behind the last get probability 0.
            log_sum = inside ? lse[at] : INFINITE;
            row_delta = inside ? delta[at] : 0.0f;
        }
    };
    // The rest of it, once there was something else to do.
    auto complete = [&]() {
        if (threadIdx.x < TILE_QUERIES) {
            float* row = statistic_of(next) + threadIdx.x;
            row[0] = log_sum * LOG2_E;
            row[TILE_QUERIES] = row_delta;
        }
        ++next;
        next_query += TILE_QUERIES;
        if (next_query >= len) {
            next_query = first_query;
            ++next_head;
        }
    };
    prefetch();
    complete();
    arrive();

    u32 lane = threadIdx.x % WARP, group = lane / 4, place = lane % 4;
    u32 warp_row = threadIdx.x / WARP * 16, warp_key = first + warp_row;
    float key_sums[HEAD_DIM / 8][4], value_sums[HEAD_DIM / 8][4];
    set_zero(key_sums);
    set_zero(value_sums);

    u32 round = 0, query = first_query;
    auto advance = [&]() {
        ++round;
        query += TILE_QUERIES;
        if (query >= len) {
            query = first_query;
        }
    };
    // Rows are keys here, columns queries.
    auto to_probabilities = [&](float(&weights)[TILE_QUERIES / 8][4]) {
        const float* statistic = statistic_of(round) + 2 * place;
#pragma unroll
        for (u32 n = 0; n < TILE_QUERIES / 8; ++n) {
            float2 log_sums = *reinterpret_cast<const float2*>(statistic + n * 8);
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                weights[n][i] = exp2_approximate(weights[n][i] * score_scale - (i % 2 == 0 ? log_sums.x : log_sums.y));
            }
        }
        // (With heads of 128 there are no registers for the branch.)
        if (warp_key + 15 > query || HEAD_DIM > 64) {
#pragma unroll
            for (u32 n = 0; n < TILE_QUERIES / 8; ++n) {
#pragma unroll
                for (u32 i = 0; i < 4; ++i) {
                    bool hidden = warp_key + group + i / 2 * 8 > query + n * 8 + 2 * place + i % 2;
                    weights[n][i] = hidden ? 0.0f : weights[n][i];
                }
            }
        }
    };
    auto to_gradients = [&](const float(&weights)[TILE_QUERIES / 8][4], float(&d_weights)[TILE_QUERIES / 8][4]) {
        const float* statistic = statistic_of(round) + TILE_QUERIES + 2 * place;
#pragma unroll
        for (u32 n = 0; n < TILE_QUERIES / 8; ++n) {
            float2 deltas = *reinterpret_cast<const float2*>(statistic + n * 8);
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                d_weights[n][i] = weights[n][i] * (d_weights[n][i] - (i % 2 == 0 ? deltas.x : deltas.y));
            }
        }
    };

#if ASYNCHRONOUS
    // Zeros must be there before a product is at work, or ptxas waits for each on its own (its warning C7515).
    warpgroup_hold(key_sums);
    warpgroup_hold(value_sums);
    // (By a shuffle, that the compiler may see that it is the same for all lanes.)
    u32 unit = __shfl_sync(ALL_LANES, warp_row / UNIT_ROWS, 0);
    u64 own_keys = warpgroup_operand<0>(keys + unit * UNIT_ROWS * HEAD_DIM);
    u64 own_values = warpgroup_operand<0>(values + unit * UNIT_ROWS * HEAD_DIM);
    // The scores of the next round are at work during the softmax of this one.
    float weights[2][TILE_QUERIES / 8][4], d_weights[TILE_QUERIES / 8][4];
    auto start_gradients = [&]() {
        warpgroup_fence();
        start_product_transposed(d_weights, own_values, stage_of(round) + TILE_QUERIES * HEAD_DIM);
        warpgroup_commit();
    };
    auto start_next = [&](float(&weights)[TILE_QUERIES / 8][4]) {
        arrive();
        warpgroup_fence();
        start_product_transposed(weights, own_keys, stage_of(round + 1));
        warpgroup_commit();
    };
    auto finish = [&](float(&weights)[TILE_QUERIES / 8][4]) {
        const bf16* queries = stage_of(round);
        // All but this round's gradients and the next one's scores: of the last round everything.
        warpgroup_wait<2>();
        warpgroup_hold(weights);
        // (Here because registers are free that products of the last round held.)
        bool more = next < rounds;
        if (more) {
            prefetch();
        }
        to_probabilities(weights);
        u32 left[TILE_QUERIES / 16][4], d_left[TILE_QUERIES / 16][4];
        pack_left(left, weights);
        warpgroup_fence();
        start_product(value_sums, left, queries + TILE_QUERIES * HEAD_DIM);
        warpgroup_commit();
        warpgroup_wait<2>();
        warpgroup_hold(d_weights);
        to_gradients(weights, d_weights);
        pack_left(d_left, d_weights);
        warpgroup_fence();
        start_product(key_sums, d_left, queries);
        warpgroup_commit();
        if (more) {
            complete();
        }
        advance();
    };
    if (next < rounds) {
        prefetch();
        complete();
    }
    warpgroup_fence();
    start_product_transposed(weights[0], own_keys, stage_of(0));
    warpgroup_commit();
    for (;;) {
        start_gradients();
        if (round + 1 == rounds) {
            warpgroup_commit();
            finish(weights[0]);
            break;
        }
        start_next(weights[1]);
        finish(weights[0]);
        start_gradients();
        if (round + 1 == rounds) {
            warpgroup_commit();
            finish(weights[1]);
            break;
        }
        start_next(weights[0]);
        finish(weights[1]);
    }
    warpgroup_wait<0>();
    warpgroup_hold(key_sums);
    warpgroup_hold(value_sums);
    // Others may still read the stages, through which sums go out: keys and values their own warpgroup may be reading.
    __syncthreads();
    bf16 *key_rows = stages, *value_rows = stages + BLOCK_KEYS * HEAD_DIM;
#else
    for (;;) {
        bool more = next < rounds;
        if (more) {
            prefetch();
        }
        if (warp_key < min(query + TILE_QUERIES, len)) {
            const bf16* queries = stage_of(round);
            const bf16* gradients = queries + TILE_QUERIES * HEAD_DIM;
            float weights[TILE_QUERIES / 8][4], d_weights[TILE_QUERIES / 8][4];
            product_transposed(weights, keys, warp_row, queries);
            to_probabilities(weights);
            accumulate_product(value_sums, weights, gradients);
            product_transposed(d_weights, values, warp_row, gradients);
            to_gradients(weights, d_weights);
            accumulate_product(key_sums, d_weights, queries);
        }
        advance();
        if (!more) {
            break;
        }
        complete();
        arrive();
    }
    // A warp's rows of keys and values are read by no other.
    bf16 *key_rows = keys, *value_rows = values;
#endif
    const float scales[2] = {scale, scale}, ones[2] = {1.0f, 1.0f};
    store_rows(key_sums, scales, key_rows, warp_row, dk + kv_offset, kv_stride, warp_key, len);
    store_rows(value_sums, ones, value_rows, warp_row, dv + kv_offset, kv_stride, warp_key, len);
}

// A block owns BLOCK_QUERIES queries of one head, 16 a warp, and walks over the keys that they see, tiles of keys and
// values in shared memory: one at work, one on its way. Arguments as above.
extern "C" __global__ __launch_bounds__(QUERY_THREADS) void attention_backward_queries(
    const bf16* q, const bf16* k, const bf16* v, const float* lse, const float* delta, const bf16* d_out, bf16* dq,
    const u32* items, u32 n_head, u32 n_kv_head, float score_scale, float scale) {
    SHARED_MEMORY(bf16, stages);
    const u32 STAGE = 2 * TILE_KEYS * HEAD_DIM;
    const u32* item = items + blockIdx.x / n_head * 8;
    u32 head = blockIdx.x % n_head, kv_head = head / (n_head / n_kv_head);
    u32 len = item[1], first = item[4] * BLOCK_QUERIES;
    u64 q_stride = static_cast<u64>(n_head) * HEAD_DIM, kv_stride = static_cast<u64>(n_kv_head) * HEAD_DIM;
    u64 q_offset = item[0] * q_stride + head * HEAD_DIM, kv_offset = item[2] * kv_stride + kv_head * HEAD_DIM;
    k += kv_offset;
    v += kv_offset;

    u32 end = min(first + BLOCK_QUERIES, len);
    u32 tiles = ceil_div(end, TILE_KEYS);
    auto stage_of = [&](u32 tile) { return stages + tile % STAGES * STAGE; };
    auto prefetch = [&](u32 tile) {
        bf16* stage = stage_of(tile);
        load_tile<TILE_KEYS, QUERY_THREADS>(stage, k, kv_stride, tile * TILE_KEYS, len);
        load_tile<TILE_KEYS, QUERY_THREADS>(stage + TILE_KEYS * HEAD_DIM, v, kv_stride, tile * TILE_KEYS, len);
        copy_async_commit();
    };

    // Queries and their output gradients pass through the memory of stages into registers.
    u32 lane = threadIdx.x % WARP, group = lane / 4, place = lane % 4;
    u32 warp_row = threadIdx.x / WARP * 16, unit_row = warp_row / UNIT_ROWS * UNIT_ROWS;
#if ASYNCHRONOUS
    bf16* own = stages + 2 * STAGE;
    prefetch(0);
#else
    bf16* own = stages;
#endif
    load_tile<BLOCK_QUERIES, QUERY_THREADS>(own, q + q_offset, q_stride, first, len);
    load_tile<BLOCK_QUERIES, QUERY_THREADS>(own + BLOCK_QUERIES * HEAD_DIM, d_out + q_offset, q_stride, first, len);
    copy_async_commit();
    float statistic[2][2];
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        u32 row = first + warp_row + 8 * half + group;
        bool inside = row < len;
        u64 at = static_cast<u64>(item[0] + row) * n_head + head;
        // Rows behind the last get probability 0.
        statistic[half][0] = inside ? lse[at] * LOG2_E : INFINITE;
        statistic[half][1] = inside ? delta[at] : 0.0f;
    }
    // What the row `group` sees last.
    u32 limit = first + warp_row + group;
    arrive();
    u32 left[STEPS][4], d_left[STEPS][4];
#pragma unroll
    for (u32 step = 0; step < STEPS; ++step) {
        load_left(left[step], own, warp_row, step);
        load_left(d_left[step], own + BLOCK_QUERIES * HEAD_DIM, warp_row, step);
    }
    // From scores and the gradients of weights to those of scores, in their place.
    auto to_gradients = [&](float(&weights)[TILE_KEYS / 8][4], float(&d_weights)[TILE_KEYS / 8][4], u32 key) {
#pragma unroll
        for (u32 n = 0; n < TILE_KEYS / 8; ++n) {
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                weights[n][i] = exp2_approximate(weights[n][i] * score_scale - statistic[i / 2][0]);
            }
        }
        if (key + TILE_KEYS - 1 > first + warp_row) {
#pragma unroll
            for (u32 n = 0; n < TILE_KEYS / 8; ++n) {
#pragma unroll
                for (u32 i = 0; i < 4; ++i) {
                    bool hidden = key + n * 8 + 2 * place + i % 2 > limit + i / 2 * 8;
                    weights[n][i] = hidden ? 0.0f : weights[n][i];
                }
            }
        }
#pragma unroll
        for (u32 n = 0; n < TILE_KEYS / 8; ++n) {
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                d_weights[n][i] = weights[n][i] * (d_weights[n][i] - statistic[i / 2][1]);
            }
        }
    };
    float sums[HEAD_DIM / 8][4];
    set_zero(sums);

#if ASYNCHRONOUS
    // The scores of the next tile are at work during the softmax of this one. A warpgroup of rows that do not see the last tile
    // is done a tile earlier, after the last of the block's meetings.
    u32 seen = min(tiles, (first + unit_row + UNIT_ROWS - 1) / TILE_KEYS + 1);
    float weights[2][TILE_KEYS / 8][4], d_weights[2][TILE_KEYS / 8][4];
    u32 tile = 0;
    auto start = [&](float(&weights)[TILE_KEYS / 8][4], float(&d_weights)[TILE_KEYS / 8][4], u32 tile) {
        const bf16* keys = stage_of(tile);
        warpgroup_fence();
        start_product_transposed(weights, left, keys);
        start_product_transposed(d_weights, d_left, keys + TILE_KEYS * HEAD_DIM);
        warpgroup_commit();
    };
    auto finish = [&](float(&weights)[TILE_KEYS / 8][4], float(&d_weights)[TILE_KEYS / 8][4]) {
        warpgroup_hold(weights);
        warpgroup_hold(d_weights);
        to_gradients(weights, d_weights, tile * TILE_KEYS);
        u32 gradients[TILE_KEYS / 16][4];
        pack_left(gradients, d_weights);
        warpgroup_fence();
        start_product(sums, gradients, stage_of(tile));
        warpgroup_commit();
    };
    // The next tile is here, and no one reads the last but one any more. The whole block in one place: no warpgroup may
    // have a barrier of its own.
    auto meet = [&]() {
        if (tile + 1 < tiles) {
            arrive();
        }
        if (tile + 2 < tiles) {
            prefetch(tile + 2);
        }
    };
    // Begins the next tile in `then`; finishes this one, whose scores are `now`.
    auto step = [&](u32 now, u32 then) {
        start(weights[then], d_weights[then], tile + 1);
        // This tile's scores, and everything before.
        warpgroup_wait<1>();
        finish(weights[now], d_weights[now]);
        ++tile;
    };
    if (tiles > 1) {
        prefetch(1);
    }
    // Zeros must be there before a product is at work, or ptxas waits for each on its own (its warning C7515).
    warpgroup_hold(sums);
    start(weights[0], d_weights[0], 0);
    for (;;) {
        meet();
        if (tile + 1 == seen) {
            warpgroup_wait<0>();
            finish(weights[0], d_weights[0]);
            break;
        }
        step(0, 1);
        meet();
        if (tile + 1 == seen) {
            warpgroup_wait<0>();
            finish(weights[1], d_weights[1]);
            break;
        }
        step(1, 0);
    }
    warpgroup_wait<0>();
    warpgroup_hold(sums);
#else
    __syncthreads();
    prefetch(0);
    for (u32 tile = 0; tile < tiles; ++tile) {
        arrive();
        const bf16* keys = stage_of(tile);
        const bf16* values = keys + TILE_KEYS * HEAD_DIM;
        u32 key = tile * TILE_KEYS;
        if (tile + 1 < tiles) {
            prefetch(tile + 1);
        }
        if (first + warp_row < len && key <= first + warp_row + 15) {
            float weights[TILE_KEYS / 8][4], d_weights[TILE_KEYS / 8][4];
            product_transposed(weights, left, keys);
            product_transposed(d_weights, d_left, values);
            to_gradients(weights, d_weights, key);
            accumulate_product(sums, d_weights, keys);
        }
    }
#endif
    // Others may still read the stages.
    __syncthreads();
    const float scales[2] = {scale, scale};
    store_rows(sums, scales, stages, warp_row, dq + q_offset, q_stride, first + warp_row, len);
}
