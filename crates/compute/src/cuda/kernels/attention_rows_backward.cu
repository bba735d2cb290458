// Gradients of causal grouped-query attention within spans for any storage type and head width, without tensor cores; and
// the row sums that attention_backward.cu begins with as well.
//
//   delta[i] = sum_d dO[i, d] O[i, d];  P = exp(S - lse);  dV = Pᵀ dO;  dP = dO Vᵀ;  dS = P (dP - delta)
//   dQ = dS K / sqrt(d);  dK = dSᵀ Q / sqrt(d)
//
// q, out, d_out, dq: S [rows, n_head * head_dim]; k, v, dk, dv: S [slots, n_kv_head * head_dim]; lse, delta: f32 [rows, n_head].
// A warp owns a row of the result, a query of one head or a key of one key head, and walks over the rows of the other side,
// 32 at a time, lane l computing the probability and its gradient for the l-th.
// items: [q_start, q_len, kv_start, kv_len, tile of 64 rows, 0, 0, 0] each. FLOPs a visible pair and head: 6 d for queries, 8 d for keys.

#define WARPS 4u
#define THREADS (WARPS * 32u)
#define ITEM_ROWS 64u
// Floats that a warp has in shared memory for a head width.
#define WARP_FLOATS(head_dim) (2u * (head_dim) + 32u * CHUNK_STRIDE + 64u)

// Adds up in registers: sums[p] += sum_j weights[j] others[j] for the pairs of this lane.
DEVICE void add_rows(float2 (&sums)[MOST_PAIRS], const float* weights, const S* others, u64 stride, u32 count,
                     u32 head_dim) {
    u32 lane = threadIdx.x % WARP;
    for (u32 j = 0; j < count; ++j, others += stride) {
#pragma unroll
        for (u32 p = 0; p < MOST_PAIRS; ++p) {
            u32 d = 2 * (lane + p * WARP);
            if (d < head_dim) {
                float2 other = load_pair(others + d);
                sums[p].x += weights[j] * other.x;
                sums[p].y += weights[j] * other.y;
            }
        }
    }
}
DEVICE void store_sums(const float2 (&sums)[MOST_PAIRS], float factor, S* to, u32 head_dim) {
    u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (u32 p = 0; p < MOST_PAIRS; ++p) {
        u32 d = 2 * (lane + p * WARP);
        if (d < head_dim) {
            store_pair(to + d, sums[p].x * factor, sums[p].y * factor);
        }
    }
}
DEVICE void set_zero(float2 (&sums)[MOST_PAIRS]) {
#pragma unroll
    for (u32 p = 0; p < MOST_PAIRS; ++p) {
        sums[p] = make_float2(0.0f, 0.0f);
    }
}

extern "C" __global__ __launch_bounds__(THREADS) void attention_delta(const S* out, const S* d_out, float* delta,
                                                                     const u32* items, u32 n_head, u32 head_dim) {
    const u32* item = items + blockIdx.x / n_head * 8;
    u32 head = blockIdx.x % n_head, lane = threadIdx.x % WARP;
    u32 end = min((item[4] + 1) * ITEM_ROWS, item[1]);
    for (u32 i = item[4] * ITEM_ROWS + threadIdx.x / WARP; i < end; i += WARPS) {
        u64 at = static_cast<u64>(item[0] + i) * n_head + head;
        float sum = 0.0f;
        for (u32 d = 2 * lane; d < head_dim; d += 2 * WARP) {
            float2 x = load_pair(out + at * head_dim + d), y = load_pair(d_out + at * head_dim + d);
            sum += x.x * y.x + x.y * y.y;
        }
        sum = warp_sum(sum);
        if (lane == 0) {
            delta[at] = sum;
        }
    }
}

// score_scale: log2(e) / sqrt(d); scale: 1 / sqrt(d). (Four blocks a multiprocessor: left to itself, the compiler spills a
// few registers for more.)
extern "C" __global__ __launch_bounds__(THREADS, 4) void attention_rows_backward_queries(
    const S* q, const S* k, const S* v, const float* lse, const float* delta, const S* d_out, S* dq, const u32* items,
    u32 n_head, u32 n_kv_head, u32 head_dim, float score_scale, float scale) {
    SHARED_MEMORY(float, memory);
    u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float* query = memory + warp * WARP_FLOATS(head_dim);
    float* gradient = query + head_dim;
    float* staging = gradient + head_dim;
    float* weights = staging + WARP * CHUNK_STRIDE;
    const u32* item = items + blockIdx.x / n_head * 8;
    u32 head = blockIdx.x % n_head, kv_head = head / (n_head / n_kv_head), past = item[3] - item[1];
    u64 kv_stride = static_cast<u64>(n_kv_head) * head_dim;
    k += item[2] * kv_stride + kv_head * head_dim;
    v += item[2] * kv_stride + kv_head * head_dim;
    u32 end = min((item[4] + 1) * ITEM_ROWS, item[1]);
    for (u32 i = item[4] * ITEM_ROWS + warp; i < end; i += WARPS) {
        u64 at = static_cast<u64>(item[0] + i) * n_head + head;
        for (u32 d = lane; d < head_dim; d += WARP) {
            query[d] = to_float(q[at * head_dim + d]) * score_scale;
            gradient[d] = to_float(d_out[at * head_dim + d]);
        }
        // (The barrier in score_rows stands between these and their first use, and between the weights below and the next.)
        float row_lse = lse[at] * LOG2_E, row_delta = delta[at];
        float2 sums[MOST_PAIRS];
        set_zero(sums);
        u32 visible = past + i + 1;
        for (u32 key = 0; key < visible; key += WARP) {
            u32 count = min(WARP, visible - key);
            float score[1], d_weight[1];
            score_rows<1>(score, query, k + key * kv_stride, kv_stride, count, head_dim, staging);
            score_rows<1>(d_weight, gradient, v + key * kv_stride, kv_stride, count, head_dim, staging);
            weights[lane] = exp2_approximate(score[0] - row_lse) * (d_weight[0] - row_delta);
            __syncwarp();
            add_rows(sums, weights, k + key * kv_stride, kv_stride, count, head_dim);
        }
        store_sums(sums, scale, dq + at * head_dim, head_dim);
    }
}

extern "C" __global__ __launch_bounds__(THREADS, 4) void attention_rows_backward_keys(
    const S* q, const S* k, const S* v, const float* lse, const float* delta, const S* d_out, S* dk, S* dv,
    const u32* items, u32 n_head, u32 n_kv_head, u32 head_dim, float score_scale, float scale) {
    SHARED_MEMORY(float, memory);
    u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float* key = memory + warp * WARP_FLOATS(head_dim);
    float* value = key + head_dim;
    float* staging = value + head_dim;
    float* weights = staging + WARP * CHUNK_STRIDE;
    float* d_weights = weights + WARP;
    const u32* item = items + blockIdx.x / n_kv_head * 8;
    u32 kv_head = blockIdx.x % n_kv_head, group = n_head / n_kv_head, q_len = item[1], past = item[3] - q_len;
    u64 q_stride = static_cast<u64>(n_head) * head_dim;
    u32 end = min((item[4] + 1) * ITEM_ROWS, item[3]);
    for (u32 j = item[4] * ITEM_ROWS + warp; j < end; j += WARPS) {
        u64 at = (static_cast<u64>(item[2] + j) * n_kv_head + kv_head) * head_dim;
        for (u32 d = lane; d < head_dim; d += WARP) {
            key[d] = to_float(k[at + d]) * score_scale;
            value[d] = to_float(v[at + d]);
        }
        // (The barrier in score_rows stands between these and their first use, and between the weights below and the next.)
        float2 key_sums[MOST_PAIRS], value_sums[MOST_PAIRS];
        set_zero(key_sums);
        set_zero(value_sums);
        for (u32 head = kv_head * group; head < (kv_head + 1) * group; ++head) {
            for (u32 query = j > past ? j - past : 0; query < q_len; query += WARP) {
                u32 count = min(WARP, q_len - query);
                u64 row = item[0] + query;
                const S* queries = q + row * q_stride + head * head_dim;
                const S* gradients = d_out + row * q_stride + head * head_dim;
                float score[1], d_weight[1];
                score_rows<1>(score, key, queries, q_stride, count, head_dim, staging);
                score_rows<1>(d_weight, value, gradients, q_stride, count, head_dim, staging);
                u64 statistic = (row + min(lane, count - 1)) * n_head + head;
                float weight = exp2_approximate(score[0] - lse[statistic] * LOG2_E);
                weights[lane] = weight;
                d_weights[lane] = weight * (d_weight[0] - delta[statistic]);
                __syncwarp();
                add_rows(value_sums, weights, gradients, q_stride, count, head_dim);
                add_rows(key_sums, d_weights, queries, q_stride, count, head_dim);
            }
        }
        store_sums(key_sums, scale, dk + at, head_dim);
        store_sums(value_sums, 1.0f, dv + at, head_dim);
    }
}
