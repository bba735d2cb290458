// Sum of squares in f64: the square of the gradient's norm. f32 would overflow on a gradient that explodes, which is just
// when its norm matters.
//
// squares_of_pieces: partial[p] = sum of x[i]^2 over piece p, `piece` elements long; a block a piece; reads 4 bytes and does
//   2 f64 FLOPs an element. (A consumer GPU does f64 at 1/64 of f32's rate, which is still about the rate of its memory.)
// sum_of_partials: total = sum of partial, one block. The pieces depend on the length alone.

constexpr u32 THREADS = 256;

// The sum over the block, valid in thread 0.
DEVICE double block_total(double x) {
    SHARED_MEMORY(double, sums); // [THREADS]
    sums[threadIdx.x] = x;
    for (u32 half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            sums[threadIdx.x] += sums[threadIdx.x + half];
        }
    }
    return sums[0];
}

extern "C" __global__ __launch_bounds__(THREADS) void squares_of_pieces(
    const float* x, u64 len, u64 piece, double* partial) {
    u64 first = blockIdx.x * piece;
    u64 count = len - first < piece ? len - first : piece;
    const float* from = x + first;
    double sum = 0.0;
    if (is_aligned(from)) {
        for (u64 i = threadIdx.x * 4; i < count; i += THREADS * 4) {
            float v[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            if (i + 4 <= count) {
                load(from + i, v);
            } else {
                for (u32 j = 0; i + j < count; ++j) {
                    v[j] = from[i + j];
                }
            }
            for (u32 j = 0; j < 4; ++j) {
                sum += double(v[j]) * double(v[j]);
            }
        }
    } else {
        for (u64 i = threadIdx.x; i < count; i += THREADS) {
            sum += double(from[i]) * double(from[i]);
        }
    }
    sum = block_total(sum);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = sum;
    }
}

extern "C" __global__ __launch_bounds__(THREADS) void sum_of_partials(const double* partial, u32 count, double* total) {
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < count; i += THREADS) {
        sum += partial[i];
    }
    sum = block_total(sum);
    if (threadIdx.x == 0) {
        *total = sum;
    }
}
