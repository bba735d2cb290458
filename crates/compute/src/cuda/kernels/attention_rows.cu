// Causal grouped-query attention within spans without tensor cores: for any storage type and head width, and for decoding,
// where a few queries read a long cache once and the work is to read it fast.
//
//   S = Q Kᵀ / sqrt(d), row i of a span seeing keys 0 ..= kv_len - q_len + i;  O = softmax(S) V;  lse[i] = log sum_j exp S[i, j]
//
// q, out: S [rows, n_head * head_dim]; k, v: S [slots, n_kv_head * head_dim]; lse: f32 [rows, n_head] or null.
// The queries of a span and the heads of a group are one list of rows, query i of head g of the group at i * group + g: all of
// them read the same keys. A block takes BLOCK_ROWS (1 to 8) rows and a range of keys, its 4 warps 32 keys each in turn; what the warps
// found is merged in their order. Where one span's keys are cut into several ranges, each block leaves its part (maximum, total
// and sums of each row), and attention_combine merges those, again in order.
// FLOPs: 4 d a visible pair. Bytes: k and v once a block.

#define WARPS 4u
#define THREADS (WARPS * 32u)
// Blocks of a multiprocessor: without a number the compiler saves a few registers more, and spills.
#define BLOCKS (BLOCK_ROWS <= 2 ? 6 : BLOCK_ROWS == 4 ? 4 : 3)

// Rows of values that a warp asks for before it uses the first; divides WARP.
#define AT_ONCE (BLOCK_ROWS <= 2 ? 8u : 4u)

// Floats of one row of a part: head_dim sums, the maximum, the total.
#define PART(head_dim) ((head_dim) + 2u)

// Merges `parts` parts of a row, `stride` floats apart, and writes the result. All threads of a warp work on one row.
DEVICE void finish_row(const float* part, u32 parts, u32 stride, u32 head_dim, S* out, float* lse) {
    u32 lane = threadIdx.x % WARP;
    float top = -INFINITE;
    for (u32 i = 0; i < parts; ++i) {
        top = fmaxf(top, part[i * stride + head_dim]);
    }
    float total = 0.0f;
    for (u32 i = 0; i < parts; ++i) {
        total += part[i * stride + head_dim + 1] * exp2_approximate(part[i * stride + head_dim] - top);
    }
    for (u32 d = 2 * lane; d < head_dim; d += 2 * WARP) {
        float x = 0.0f, y = 0.0f;
        for (u32 i = 0; i < parts; ++i) {
            float weight = exp2_approximate(part[i * stride + head_dim] - top);
            x += weight * part[i * stride + d];
            y += weight * part[i * stride + d + 1];
        }
        store_pair(out + d, x / total, y / total);
    }
    if (lse && lane == 0) {
        *lse = top * LN_2 + logf(total);
    }
}

// items: [q_start, q_len, kv_start, kv_len, first row, first key, key behind the last, part or 0xffffffff] each; `parts` holds
// BLOCK_ROWS rows for each part and key head. scale: log2(e) / sqrt(d).
extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void attention_rows(const S* q, const S* k, const S* v, S* out, float* lse,
                                                                    float* parts, const u32* items, u32 n_head,
                                                                    u32 n_kv_head, u32 head_dim, float scale) {
    // Own rows [head_dim][BLOCK_ROWS]; then for each warp its staging and its weights [32][BLOCK_ROWS]. In the end, in the same place
    // as those, for each warp its part of each row.
    SHARED_MEMORY(float, own);
    float* rest = own + head_dim * BLOCK_ROWS;
    u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float* staging = rest + warp * (WARP * CHUNK_STRIDE + WARP * BLOCK_ROWS);
    float* weights = staging + WARP * CHUNK_STRIDE;

    const u32* item = items + blockIdx.x / n_kv_head * 8;
    u32 kv_head = blockIdx.x % n_kv_head, group = n_head / n_kv_head;
    u32 q_start = item[0], q_len = item[1], past = item[3] - q_len, first_row = item[4];
    u64 q_stride = static_cast<u64>(n_head) * head_dim, kv_stride = static_cast<u64>(n_kv_head) * head_dim;
    k += item[2] * kv_stride + kv_head * head_dim;
    v += item[2] * kv_stride + kv_head * head_dim;
    u32 rows = min(BLOCK_ROWS, q_len * group - first_row);

    for (u32 i = threadIdx.x; i < head_dim * BLOCK_ROWS; i += THREADS) {
        u32 row = first_row + i % BLOCK_ROWS, d = i / BLOCK_ROWS;
        u64 at = (q_start + row / group) * q_stride + (kv_head * group + row % group) * head_dim + d;
        own[i] = i % BLOCK_ROWS < rows ? to_float(q[at]) * scale : 0.0f;
    }
    // Rows behind the last see what the last sees, with a query of zeros.
    u32 limit[BLOCK_ROWS];
#pragma unroll
    for (u32 r = 0; r < BLOCK_ROWS; ++r) {
        limit[r] = past + (first_row + min(r, rows - 1)) / group;
    }
    float largest[BLOCK_ROWS], total[BLOCK_ROWS];
    float2 sums[BLOCK_ROWS][MOST_PAIRS];
#pragma unroll
    for (u32 r = 0; r < BLOCK_ROWS; ++r) {
        largest[r] = -INFINITE;
        total[r] = 0.0f;
#pragma unroll
        for (u32 p = 0; p < MOST_PAIRS; ++p) {
            sums[r][p] = make_float2(0.0f, 0.0f);
        }
    }
    __syncthreads();

    u32 end = min(item[6], limit[BLOCK_ROWS - 1] + 1);
    for (u32 key = item[5] + warp * WARP; key < end; key += THREADS) {
        u32 count = min(WARP, end - key);
        float scores[BLOCK_ROWS];
        score_rows<BLOCK_ROWS>(scores, own, k + key * kv_stride, kv_stride, count, head_dim, staging);
#pragma unroll
        for (u32 r = 0; r < BLOCK_ROWS; ++r) {
            float score = lane < count && key + lane <= limit[r] ? scores[r] : -INFINITE;
            float top = fmaxf(largest[r], warp_max(score));
            // A row that has seen no key yet keeps sums of zero.
            float base = top == -INFINITE ? 0.0f : top;
            float shrink = exp2_approximate(largest[r] - base), weight = exp2_approximate(score - base);
            largest[r] = top;
            // Every lane its own; added up in the end.
            total[r] = total[r] * shrink + weight;
            weights[lane * BLOCK_ROWS + r] = weight;
#pragma unroll
            for (u32 p = 0; p < MOST_PAIRS; ++p) {
                sums[r][p].x *= shrink;
                sums[r][p].y *= shrink;
            }
        }
        __syncwarp();
        // AT_ONCE rows on their way together: one after the other would wait for memory each time. Behind the last row it
        // stands again, with weights of 0.
        const S* values = v + key * kv_stride;
        for (u32 j = 0; j < count; j += AT_ONCE) {
#pragma unroll
            for (u32 p = 0; p < MOST_PAIRS; ++p) {
                u32 d = 2 * (lane + p * WARP);
                if (d < head_dim) {
                    float2 value[AT_ONCE];
#pragma unroll
                    for (u32 i = 0; i < AT_ONCE; ++i) {
                        value[i] = load_pair(values + min(j + i, count - 1) * kv_stride + d);
                    }
#pragma unroll
                    for (u32 i = 0; i < AT_ONCE; ++i) {
#pragma unroll
                        for (u32 r = 0; r < BLOCK_ROWS; ++r) {
                            float weight = weights[(j + i) * BLOCK_ROWS + r];
                            sums[r][p].x += weight * value[i].x;
                            sums[r][p].y += weight * value[i].y;
                        }
                    }
                }
            }
        }
        // The barrier in the next score_rows stands between these weights and the next.
    }

    // The warps' parts take the place of all stagings.
    __syncthreads();
    u32 stride = BLOCK_ROWS * PART(head_dim);
#pragma unroll
    for (u32 r = 0; r < BLOCK_ROWS; ++r) {
        float* part = rest + warp * stride + r * PART(head_dim);
#pragma unroll
        for (u32 p = 0; p < MOST_PAIRS; ++p) {
            u32 d = 2 * (lane + p * WARP);
            if (d < head_dim) {
                part[d] = sums[r][p].x;
                part[d + 1] = sums[r][p].y;
            }
        }
        float sum = warp_sum(total[r]);
        if (lane == 0) {
            part[head_dim] = largest[r];
            part[head_dim + 1] = sum;
        }
    }
    __syncthreads();
    if (item[7] == 0xffffffffu) {
        for (u32 r = warp; r < rows; r += WARPS) {
            u32 row = first_row + r, head = kv_head * group + row % group;
            u64 at = q_start + row / group;
            finish_row(rest + r * PART(head_dim), WARPS, stride, head_dim, out + at * q_stride + head * head_dim,
                       lse ? lse + at * n_head + head : nullptr);
        }
        return;
    }
    float* part = parts + (static_cast<u64>(item[7]) * n_kv_head + kv_head) * stride;
    for (u32 i = threadIdx.x; i < BLOCK_ROWS * head_dim; i += THREADS) {
        u32 r = i / head_dim, d = i % head_dim;
        const float* from = rest + r * PART(head_dim);
        float top = -INFINITE;
        for (u32 w = 0; w < WARPS; ++w) {
            top = fmaxf(top, from[w * stride + head_dim]);
        }
        float base = top == -INFINITE ? 0.0f : top, sum = 0.0f, all = 0.0f;
        for (u32 w = 0; w < WARPS; ++w) {
            float weight = exp2_approximate(from[w * stride + head_dim] - base);
            sum += weight * from[w * stride + d];
            all += weight * from[w * stride + head_dim + 1];
        }
        part[r * PART(head_dim) + d] = sum;
        if (d == 0) {
            part[r * PART(head_dim) + head_dim] = top;
            part[r * PART(head_dim) + head_dim + 1] = all;
        }
    }
}

// Merges the parts of BLOCK_ROWS rows. items: [q_start, q_len, first row, first part, parts, 0, 0, 0] each.
extern "C" __global__ __launch_bounds__(THREADS) void attention_combine(S* out, float* lse, const float* parts,
                                                                       const u32* items, u32 n_head, u32 n_kv_head,
                                                                       u32 head_dim) {
    const u32* item = items + blockIdx.x / n_kv_head * 8;
    u32 kv_head = blockIdx.x % n_kv_head, group = n_head / n_kv_head;
    u32 rows = min(BLOCK_ROWS, item[1] * group - item[2]);
    u32 stride = BLOCK_ROWS * PART(head_dim);
    parts += (static_cast<u64>(item[3]) * n_kv_head + kv_head) * stride;
    for (u32 r = threadIdx.x / WARP; r < rows; r += WARPS) {
        u32 row = item[2] + r, head = kv_head * group + row % group;
        u64 at = item[0] + row / group;
        finish_row(parts + r * PART(head_dim), item[4], n_kv_head * stride, head_dim,
                   out + (at * n_head + head) * head_dim, lse ? lse + at * n_head + head : nullptr);
    }
}
