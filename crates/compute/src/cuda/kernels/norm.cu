// LayerNorm (Ba et al. 2016, arXiv 1607.06450) and RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) over rows of the
// f32 residual stream [tokens, width].
//
// y = h w (+ b), h = (x - mean) s, s = 1 / sqrt(mean((x - mean)^2) + eps); RMSNorm's mean is 0 (centered = 0).
// Backward, g = dy w: dx += s (g - mean(g) - h mean(g h)), RMSNorm without mean(g); dw += sum_t dy h, db += sum_t dy.
//
// One warp a row. Rows of up to 2048 elements, in fours, are held in registers: all of a row is on its way at once, and read
// once. Of others the second and third pass come out of the first-level cache.
//   norm_forward, norm_again    read 4, write sizeof(S) bytes an element; about 6 FLOPs
//   norm_backward               read 8 + sizeof(S), write 4; about 16 FLOPs; its partial sums are added up by columns.cu.
//     norm_backward_wide for rows of more than 1024, whose registers would halve the warps that wait together for memory
//   norm_backward_input, norm_backward_parameters   the same in two, for other rows: read 4 + sizeof(S) more

// Four neighbours from 4 (32 r + lane) on in round r: what a lane has of its warp's row.
DEVICE u32 place_of(u32 r) {
    return (r * 32 + threadIdx.x % 32) * 4;
}

// A row of at most 128 ROUNDS elements; zeros behind it.
template <u32 ROUNDS, typename T>
DEVICE void load_row(float (&v)[ROUNDS][4], const T* row, u32 width) {
#pragma unroll
    for (u32 r = 0; r < ROUNDS; ++r) {
        if (place_of(r) < width) {
            load(row + place_of(r), v[r]);
        } else {
            v[r][0] = v[r][1] = v[r][2] = v[r][3] = 0.0f;
        }
    }
}

// Whether rows are held in registers, and in how many rounds.
DEVICE bool is_held(u32 width, u32 rounds) {
    return width % 4 == 0 && width <= 128 * rounds;
}

template <u32 ROUNDS>
DEVICE void held_statistics(const float (&v)[ROUNDS][4], u32 width, float eps, u32 centered, float& mean, float& scale) {
    mean = 0.0f;
    if (centered) {
        float sum = 0.0f;
#pragma unroll
        for (u32 r = 0; r < ROUNDS; ++r) {
            sum += (v[r][0] + v[r][1]) + (v[r][2] + v[r][3]);
        }
        mean = warp_sum(sum) / float(width);
    }
    float squares = 0.0f;
#pragma unroll
    for (u32 r = 0; r < ROUNDS; ++r) {
        if (place_of(r) < width) {
#pragma unroll
            for (u32 j = 0; j < 4; ++j) {
                squares = fmaf(v[r][j] - mean, v[r][j] - mean, squares);
            }
        }
    }
    scale = 1.0f / sqrtf(warp_sum(squares) / float(width) + eps);
}

// bias may be null.
template <u32 ROUNDS>
DEVICE void normalise_held(
    float (&v)[ROUNDS][4], const float* weight, const float* bias, S* y, u32 width, float mean, float scale) {
#pragma unroll
    for (u32 r = 0; r < ROUNDS; ++r) {
        u32 i = place_of(r);
        if (i < width) {
            float w[4], b[4] = {};
            load(weight + i, w);
            if (bias != nullptr) {
                load(bias + i, b);
            }
#pragma unroll
            for (u32 j = 0; j < 4; ++j) {
                v[r][j] = fmaf((v[r][j] - mean) * scale, w[j], b[j]);
            }
            store(y + i, v[r]);
        }
    }
}

template <u32 ROUNDS>
DEVICE void forward_held(const float* x, const float* weight, const float* bias, S* y, u32 width, float eps, u32 centered,
                         float& mean, float& scale) {
    float v[ROUNDS][4];
    load_row(v, x, width);
    held_statistics(v, width, eps, centered, mean, scale);
    normalise_held(v, weight, bias, y, width, mean, scale);
}

template <u32 ROUNDS>
DEVICE void again_held(
    const float* x, const float* weight, const float* bias, S* y, u32 width, float mean, float scale) {
    float v[ROUNDS][4];
    load_row(v, x, width);
    normalise_held(v, weight, bias, y, width, mean, scale);
}

// mean and s of the calling warp's row.
template <u32 N>
DEVICE void row_statistics(const float* x, u32 width, float eps, u32 centered, float& mean, float& scale) {
    u32 lane = threadIdx.x % 32;
    mean = 0.0f;
    if (centered) {
        float sum = 0.0f;
        for (u32 i = lane * N; i < width; i += 32 * N) {
            float v[N];
            load(x + i, v);
            for (u32 j = 0; j < N; ++j) {
                sum += v[j];
            }
        }
        mean = warp_sum(sum) / float(width);
    }
    float squares = 0.0f;
    for (u32 i = lane * N; i < width; i += 32 * N) {
        float v[N];
        load(x + i, v);
        for (u32 j = 0; j < N; ++j) {
            squares = fmaf(v[j] - mean, v[j] - mean, squares);
        }
    }
    scale = 1.0f / sqrtf(warp_sum(squares) / float(width) + eps);
}

// bias may be null.
template <u32 N>
DEVICE void normalise_row(
    const float* x, const float* weight, const float* bias, S* y, u32 width, float mean, float scale) {
    for (u32 i = threadIdx.x % 32 * N; i < width; i += 32 * N) {
        float v[N], w[N], b[N];
        load(x + i, v);
        load(weight + i, w);
        if (bias != nullptr) {
            load(bias + i, b);
        }
        for (u32 j = 0; j < N; ++j) {
            float h = (v[j] - mean) * scale;
            v[j] = bias != nullptr ? fmaf(h, w[j], b[j]) : h * w[j];
        }
        store(y + i, v);
    }
}

// The row of the calling warp, of 8 in a block.
DEVICE u32 warp_row() {
    return blockIdx.x * 8 + threadIdx.x / 32;
}

extern "C" __global__ __launch_bounds__(256, 2) void norm_forward(
    const float* x, const float* weight, const float* bias, S* y, float* stats, u32 tokens, u32 width, float eps,
    u32 centered) {
    u32 row = warp_row();
    if (row >= tokens) {
        return;
    }
    const float* from = x + u64(row) * width;
    S* to = y + u64(row) * width;
    float mean, scale;
    if (is_held(width, 8)) {
        forward_held<8>(from, weight, bias, to, width, eps, centered, mean, scale);
    } else if (is_held(width, 16)) {
        forward_held<16>(from, weight, bias, to, width, eps, centered, mean, scale);
    } else if (width % 4 == 0) {
        row_statistics<4>(from, width, eps, centered, mean, scale);
        normalise_row<4>(from, weight, bias, to, width, mean, scale);
    } else {
        row_statistics<1>(from, width, eps, centered, mean, scale);
        normalise_row<1>(from, weight, bias, to, width, mean, scale);
    }
    if (threadIdx.x % 32 == 0) {
        stats[2 * u64(row)] = mean;
        stats[2 * u64(row) + 1] = scale;
    }
}

extern "C" __global__ __launch_bounds__(256, 2) void norm_again(
    const float* x, const float* weight, const float* bias, S* y, const float* stats, u32 tokens, u32 width) {
    u32 row = warp_row();
    if (row >= tokens) {
        return;
    }
    const float* from = x + u64(row) * width;
    S* to = y + u64(row) * width;
    float mean = stats[2 * u64(row)], scale = stats[2 * u64(row) + 1];
    if (is_held(width, 8)) {
        again_held<8>(from, weight, bias, to, width, mean, scale);
    } else if (is_held(width, 16)) {
        again_held<16>(from, weight, bias, to, width, mean, scale);
    } else if (width % 4 == 0) {
        normalise_row<4>(from, weight, bias, to, width, mean, scale);
    } else {
        normalise_row<1>(from, weight, bias, to, width, mean, scale);
    }
}

template <u32 N>
DEVICE void row_gradient(
    const float* x, const float* weight, const S* dy, float* dx, u32 width, float mean, float scale, u32 centered) {
    u32 lane = threadIdx.x % 32;
    float sum_g = 0.0f, sum_gh = 0.0f;
    for (u32 i = lane * N; i < width; i += 32 * N) {
        float v[N], w[N], d[N];
        load(x + i, v);
        load(weight + i, w);
        load(dy + i, d);
        for (u32 j = 0; j < N; ++j) {
            float g = __fmul_rn(d[j], w[j]);
            sum_g += g;
            sum_gh = fmaf(g, (v[j] - mean) * scale, sum_gh);
        }
    }
    float mean_g = centered ? warp_sum(sum_g) / float(width) : 0.0f;
    float mean_gh = warp_sum(sum_gh) / float(width);
    for (u32 i = lane * N; i < width; i += 32 * N) {
        float v[N], w[N], d[N], out[N];
        load(x + i, v);
        load(weight + i, w);
        load(dy + i, d);
        load(dx + i, out);
        for (u32 j = 0; j < N; ++j) {
            float h = (v[j] - mean) * scale;
            // Rounded as it was when it was summed: in a row whose g are all alike the difference from their mean is 0, and
            // scale may be large.
            float g = __fmul_rn(d[j], w[j]);
            out[j] += scale * (g - mean_g - h * mean_gh);
        }
        store(dx + i, out);
    }
}

extern "C" __global__ __launch_bounds__(256) void norm_backward_input(
    const float* x, const float* weight, const float* stats, const S* dy, float* dx, u32 tokens, u32 width,
    u32 centered) {
    u32 row = warp_row();
    if (row >= tokens) {
        return;
    }
    u64 at = u64(row) * width;
    float mean = stats[2 * u64(row)], scale = stats[2 * u64(row) + 1];
    if (width % 4 == 0) {
        row_gradient<4>(x + at, weight, dy + at, dx + at, width, mean, scale, centered);
    } else {
        row_gradient<1>(x + at, weight, dy + at, dx + at, width, mean, scale, centered);
    }
}

// partial [chunks][2][width]: the sums over `rows_per_chunk` rows of dy h and of dy. A block owns 32 columns of a chunk;
// eight rows at a time are read by its eight warps, whose sums are then added in order.
extern "C" __global__ __launch_bounds__(256) void norm_backward_parameters(
    const float* x, const float* stats, const S* dy, float* partial, u32 tokens, u32 width, u32 rows_per_chunk) {
    SHARED_MEMORY(float, sums); // [2][8][32]
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 column = blockIdx.x * 32 + lane;
    u32 first = blockIdx.y * rows_per_chunk;
    u32 end = min(first + rows_per_chunk, tokens);
    float d_weight = 0.0f, d_bias = 0.0f;
    if (column < width) {
        for (u32 row = first + warp; row < end; row += 8) {
            u64 at = u64(row) * width + column;
            float d = to_float(dy[at]);
            float h = (x[at] - stats[2 * u64(row)]) * stats[2 * u64(row) + 1];
            d_weight = fmaf(d, h, d_weight);
            d_bias += d;
        }
    }
    sums[threadIdx.x] = d_weight;
    sums[256 + threadIdx.x] = d_bias;
    __syncthreads();
    if (warp < 2 && column < width) {
        float sum = 0.0f;
        for (u32 w = 0; w < 8; ++w) {
            sum += sums[warp * 256 + w * 32 + lane];
        }
        partial[(u64(blockIdx.y) * 2 + warp) * width + column] = sum;
    }
}

// A row of dx, and its share of the warp's sums [2][width] of dy h and dy. All that it reads of memory is asked for at once.
template <u32 ROUNDS>
DEVICE void gradient_held(const float* x, const float* weight, const S* dy, float* dx, float* sums, u32 width, float mean,
                          float scale, u32 centered) {
    float v[ROUNDS][4], d[ROUNDS][4], out[ROUNDS][4];
    load_row(v, x, width);
    load_row(d, dy, width);
    load_row(out, dx, width);
    float sum_g = 0.0f, sum_gh = 0.0f;
#pragma unroll
    for (u32 r = 0; r < ROUNDS; ++r) {
        u32 i = place_of(r);
        if (i < width) {
            float w[4], d_weight[4], d_bias[4];
            load(weight + i, w);
            load(sums + i, d_weight);
            load(sums + width + i, d_bias);
#pragma unroll
            for (u32 j = 0; j < 4; ++j) {
                float h = (v[r][j] - mean) * scale, g = __fmul_rn(d[r][j], w[j]);
                v[r][j] = h;
                sum_g += g;
                sum_gh = fmaf(g, h, sum_gh);
                d_weight[j] = fmaf(d[r][j], h, d_weight[j]);
                d_bias[j] += d[r][j];
            }
            store(sums + i, d_weight);
            store(sums + width + i, d_bias);
        }
    }
    float mean_g = centered ? warp_sum(sum_g) / float(width) : 0.0f;
    float mean_gh = warp_sum(sum_gh) / float(width);
#pragma unroll
    for (u32 r = 0; r < ROUNDS; ++r) {
        u32 i = place_of(r);
        if (i < width) {
            float w[4];
            load(weight + i, w);
#pragma unroll
            for (u32 j = 0; j < 4; ++j) {
                // Rounded as it was when it was summed, as in row_gradient.
                float g = __fmul_rn(d[r][j], w[j]);
                out[r][j] += scale * (g - mean_g - v[r][j] * mean_gh);
            }
            store(dx + i, out[r]);
        }
    }
}

// Both in one: dx, and partial [blocks][2][width], the sums over a block's rows of dy h and of dy. A block takes `rows` rows,
// its warps one each at a time; each warp keeps sums of its own, which are added in order in the end. Rows that are held only.
template <u32 ROUNDS>
DEVICE void backward_held(const float* x, const float* weight, const float* stats, const S* dy, float* dx, float* partial,
                          float* sums, u32 tokens, u32 width, u32 centered, u32 rows) {
    u32 warp = threadIdx.x / 32, warps = blockDim.x / 32;
    float* own = sums + u64(warp) * 2 * width;
    const float none[4] = {};
    for (u32 i = place_of(0); i < 2 * width; i += 128) {
        store(own + i, none);
    }
    // 2 width is whole fours, but a lane's fours of the second half are others than it has just set.
    __syncwarp();
    u32 first = blockIdx.x * rows, end = min(first + rows, tokens);
    for (u32 row = first + warp; row < end; row += warps) {
        u64 at = u64(row) * width;
        gradient_held<ROUNDS>(x + at, weight, dy + at, dx + at, own, width, stats[2 * u64(row)], stats[2 * u64(row) + 1],
                              centered);
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < 2 * width; i += blockDim.x) {
        float sum = 0.0f;
        for (u32 w = 0; w < warps; ++w) {
            sum += sums[w * 2 * width + i];
        }
        partial[u64(blockIdx.x) * 2 * width + i] = sum;
    }
}

extern "C" __global__ __launch_bounds__(256, 2) void norm_backward(
    const float* x, const float* weight, const float* stats, const S* dy, float* dx, float* partial, u32 tokens, u32 width,
    u32 centered, u32 rows) {
    SHARED_MEMORY(float, sums); // [warps][2][width]
    backward_held<8>(x, weight, stats, dy, dx, partial, sums, tokens, width, centered, rows);
}

// Eight warps of rows so wide would have no room for their sums.
extern "C" __global__ __launch_bounds__(128) void norm_backward_wide(
    const float* x, const float* weight, const float* stats, const S* dy, float* dx, float* partial, u32 tokens, u32 width,
    u32 centered, u32 rows) {
    SHARED_MEMORY(float, sums); // [warps][2][width]
    backward_held<16>(x, weight, stats, dy, dx, partial, sums, tokens, width, centered, rows);
}
