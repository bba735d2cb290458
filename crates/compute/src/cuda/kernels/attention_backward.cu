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

#if HEAD_DIM == 64
#define KEY_WARPS 4u
#define TILE_QUERIES 64u
#define TILE_KEYS 64u
#else
// 8 warps with 64 KiB of keys and values, 32 KiB of queries on the way: all that sm_86 has, but 8 warps either way.
#define KEY_WARPS 8u
#define TILE_QUERIES 32u
#define TILE_KEYS 32u
#endif
#define KEY_THREADS (KEY_WARPS * 32u)
#define BLOCK_KEYS (KEY_WARPS * 16u)
#define QUERY_THREADS 128u
#define BLOCK_QUERIES 64u

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
#pragma unroll
    for (u32 step = 0; step < BLOCKS / 2; ++step) {
        u32 a[4];
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            const float(&block)[4] = weights[2 * step + i / 2];
            a[i] = pack_bf16(block[i % 2 * 2], block[i % 2 * 2 + 1]);
        }
#pragma unroll
        for (u32 n = 0; n < HEAD_DIM / 8; n += 2) {
            u32 b[4];
            load_right(b, right, step * 16, n);
            mma_m16n8k16(sums[n], a, b[0], b[1]);
            mma_m16n8k16(sums[n + 1], a, b[2], b[3]);
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

// A block owns BLOCK_KEYS keys of one key head, 16 a warp, and walks over the queries that see them, query head after query
// head of the group, two tiles of queries in shared memory: one at work, one on its way.
// items: [q_start, q_len, kv_start, kv_len, tile, 0, 0, 0] each. score_scale: log2(e) / sqrt(d); scale: 1 / sqrt(d).
extern "C" __global__ __launch_bounds__(KEY_THREADS) void attention_backward_keys(
    const bf16* q, const bf16* k, const bf16* v, const float* lse, const float* delta, const bf16* d_out, bf16* dk, bf16* dv,
    const u32* items, u32 n_head, u32 n_kv_head, float score_scale, float scale) {
    SHARED_MEMORY(bf16, keys);
    bf16* values = keys + BLOCK_KEYS * HEAD_DIM;
    bf16* stages = values + BLOCK_KEYS * HEAD_DIM;
    const u32 STAGE = 2 * TILE_QUERIES * HEAD_DIM;
    // Log-sum-exp in base 2 and delta of a tile's queries, for each stage.
    float* statistics = reinterpret_cast<float*>(stages + 2 * STAGE);

    const u32* item = items + blockIdx.x / n_kv_head * 8;
    u32 kv_head = blockIdx.x % n_kv_head, group_heads = n_head / n_kv_head;
    u32 q_len = item[1], kv_len = item[3], first = item[4] * BLOCK_KEYS, past = kv_len - q_len;
    u64 q_stride = static_cast<u64>(n_head) * HEAD_DIM, kv_stride = static_cast<u64>(n_kv_head) * HEAD_DIM;
    u64 q_offset = item[0] * q_stride, kv_offset = item[2] * kv_stride + kv_head * HEAD_DIM;

    load_tile<BLOCK_KEYS, KEY_THREADS>(keys, k + kv_offset, kv_stride, first, kv_len);
    load_tile<BLOCK_KEYS, KEY_THREADS>(values, v + kv_offset, kv_stride, first, kv_len);

    // The first query that sees the first key, and the tiles from there on, for each head of the group.
    u32 first_tile = (first > past ? first - past : 0) / TILE_QUERIES;
    u32 tiles = ceil_div(q_len, TILE_QUERIES) - first_tile;
    u32 rounds = tiles * group_heads;

    auto prefetch = [&](u32 round) {
        u32 head = kv_head * group_heads + round / tiles, query = (first_tile + round % tiles) * TILE_QUERIES;
        bf16* stage = stages + round % 2 * STAGE;
        load_tile<TILE_QUERIES, KEY_THREADS>(stage, q + q_offset + head * HEAD_DIM, q_stride, query, q_len);
        load_tile<TILE_QUERIES, KEY_THREADS>(stage + TILE_QUERIES * HEAD_DIM, d_out + q_offset + head * HEAD_DIM, q_stride,
                                             query, q_len);
        copy_async_commit();
        if (threadIdx.x < TILE_QUERIES) {
            bool inside = query + threadIdx.x < q_len;
            u64 at = static_cast<u64>(item[0] + query + threadIdx.x) * n_head + head;
            float* row = statistics + round % 2 * 2 * TILE_QUERIES + threadIdx.x;
            // Rows behind the last get probability 0.
            row[0] = inside ? lse[at] * LOG2_E : INFINITE;
            row[TILE_QUERIES] = inside ? delta[at] : 0.0f;
        }
    };
    prefetch(0);

    u32 lane = threadIdx.x % WARP, group = lane / 4, place = lane % 4;
    u32 warp_row = threadIdx.x / WARP * 16, warp_key = first + warp_row;
    float key_sums[HEAD_DIM / 8][4], value_sums[HEAD_DIM / 8][4];
    set_zero(key_sums);
    set_zero(value_sums);

    for (u32 round = 0; round < rounds; ++round) {
        // This round's tile is here, and no one reads the last one's.
        copy_async_wait<0>();
        __syncthreads();
        if (round + 1 < rounds) {
            prefetch(round + 1);
        }
        u32 query = (first_tile + round % tiles) * TILE_QUERIES;
        u32 last = min(query + TILE_QUERIES, q_len) - 1;
        if (warp_key >= kv_len || warp_key > past + last) {
            continue;
        }
        const bf16* queries = stages + round % 2 * STAGE;
        const bf16* gradients = queries + TILE_QUERIES * HEAD_DIM;
        const float* statistic = statistics + round % 2 * 2 * TILE_QUERIES;
        bool masked = warp_key + 15 > past + query;

        // Rows are keys here, columns queries.
        float weights[TILE_QUERIES / 8][4], d_weights[TILE_QUERIES / 8][4];
        product_transposed(weights, keys, warp_row, queries);
#pragma unroll
        for (u32 n = 0; n < TILE_QUERIES / 8; ++n) {
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                u32 column = n * 8 + 2 * place + i % 2;
                float weight = exp2_approximate(weights[n][i] * score_scale - statistic[column]);
                bool hidden = masked && warp_key + group + i / 2 * 8 > past + query + column;
                weights[n][i] = hidden ? 0.0f : weight;
            }
        }
        accumulate_product(value_sums, weights, gradients);
        product_transposed(d_weights, values, warp_row, gradients);
#pragma unroll
        for (u32 n = 0; n < TILE_QUERIES / 8; ++n) {
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                d_weights[n][i] = weights[n][i] * (d_weights[n][i] - statistic[TILE_QUERIES + n * 8 + 2 * place + i % 2]);
            }
        }
        accumulate_product(key_sums, d_weights, queries);
    }

    // A warp's rows of keys and values are read by no other.
    const float scales[2] = {scale, scale}, ones[2] = {1.0f, 1.0f};
    store_rows(key_sums, scales, keys, warp_row, dk + kv_offset, kv_stride, warp_key, kv_len);
    store_rows(value_sums, ones, values, warp_row, dv + kv_offset, kv_stride, warp_key, kv_len);
}

// A block owns BLOCK_QUERIES queries of one head, 16 a warp, and walks over the keys that they see, two tiles of keys and
// values in shared memory: one at work, one on its way. Arguments as above.
extern "C" __global__ __launch_bounds__(QUERY_THREADS) void attention_backward_queries(
    const bf16* q, const bf16* k, const bf16* v, const float* lse, const float* delta, const bf16* d_out, bf16* dq,
    const u32* items, u32 n_head, u32 n_kv_head, float score_scale, float scale) {
    SHARED_MEMORY(bf16, stages);
    const u32 STAGE = 2 * TILE_KEYS * HEAD_DIM;
    const u32* item = items + blockIdx.x / n_head * 8;
    u32 head = blockIdx.x % n_head, kv_head = head / (n_head / n_kv_head);
    u32 q_len = item[1], kv_len = item[3], first = item[4] * BLOCK_QUERIES, past = kv_len - q_len;
    u64 q_stride = static_cast<u64>(n_head) * HEAD_DIM, kv_stride = static_cast<u64>(n_kv_head) * HEAD_DIM;
    u64 q_offset = item[0] * q_stride + head * HEAD_DIM, kv_offset = item[2] * kv_stride + kv_head * HEAD_DIM;
    k += kv_offset;
    v += kv_offset;

    // Queries and their output gradients pass through the memory of the stages into registers.
    u32 lane = threadIdx.x % WARP, group = lane / 4, place = lane % 4;
    u32 warp_row = threadIdx.x / WARP * 16;
    load_tile<BLOCK_QUERIES, QUERY_THREADS>(stages, q + q_offset, q_stride, first, q_len);
    load_tile<BLOCK_QUERIES, QUERY_THREADS>(stages + BLOCK_QUERIES * HEAD_DIM, d_out + q_offset, q_stride, first, q_len);
    copy_async_commit();
    float statistic[2][2];
    u32 limit[2];
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        u32 row = first + warp_row + 8 * half + group;
        bool inside = row < q_len;
        u64 at = static_cast<u64>(item[0] + row) * n_head + head;
        // Rows behind the last get probability 0.
        statistic[half][0] = inside ? lse[at] * LOG2_E : INFINITE;
        statistic[half][1] = inside ? delta[at] : 0.0f;
        limit[half] = past + row;
    }
    copy_async_wait<0>();
    __syncthreads();
    u32 left[STEPS][4], d_left[STEPS][4];
#pragma unroll
    for (u32 step = 0; step < STEPS; ++step) {
        load_left(left[step], stages, warp_row, step);
        load_left(d_left[step], stages + BLOCK_QUERIES * HEAD_DIM, warp_row, step);
    }
    __syncthreads();

    u32 end = min(first + BLOCK_QUERIES, q_len);
    u32 tiles = (past + end - 1) / TILE_KEYS + 1;
    auto prefetch = [&](u32 tile) {
        bf16* stage = stages + tile % 2 * STAGE;
        load_tile<TILE_KEYS, QUERY_THREADS>(stage, k, kv_stride, tile * TILE_KEYS, kv_len);
        load_tile<TILE_KEYS, QUERY_THREADS>(stage + TILE_KEYS * HEAD_DIM, v, kv_stride, tile * TILE_KEYS, kv_len);
        copy_async_commit();
    };
    prefetch(0);

    float sums[HEAD_DIM / 8][4];
    set_zero(sums);
    for (u32 tile = 0; tile < tiles; ++tile) {
        copy_async_wait<0>();
        __syncthreads();
        if (tile + 1 < tiles) {
            prefetch(tile + 1);
        }
        u32 key = tile * TILE_KEYS;
        if (first + warp_row >= q_len || key > past + first + warp_row + 15) {
            continue;
        }
        const bf16* keys = stages + tile % 2 * STAGE;
        const bf16* values = keys + TILE_KEYS * HEAD_DIM;
        bool masked = key + TILE_KEYS - 1 > past + first + warp_row;

        float weights[TILE_KEYS / 8][4], d_weights[TILE_KEYS / 8][4];
        product_transposed(weights, left, keys);
        product_transposed(d_weights, d_left, values);
#pragma unroll
        for (u32 n = 0; n < TILE_KEYS / 8; ++n) {
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                const float(&row)[2] = statistic[i / 2];
                float weight = exp2_approximate(weights[n][i] * score_scale - row[0]);
                bool hidden = masked && key + n * 8 + 2 * place + i % 2 > limit[i / 2];
                d_weights[n][i] = hidden ? 0.0f : weight * (d_weights[n][i] - row[1]);
            }
        }
        accumulate_product(sums, d_weights, keys);
    }

    // Others may still read the stages.
    __syncthreads();
    const float scales[2] = {scale, scale};
    store_rows(sums, scales, stages, warp_row, dq + q_offset, q_stride, first + warp_row, q_len);
}
