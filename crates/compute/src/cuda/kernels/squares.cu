// Sum of squares in f64: the square of the gradient's norm. f32 would overflow on a gradient that explodes, which is just
// when its norm matters.
//
// squares_of_pieces: partial[p] = sum of x[i]^2 over piece p, `piece` elements long; a block a piece; reads 4 bytes and does
//   2 f64 FLOPs an element. (A consumer GPU does f64 at 1/64 of f32's rate, which is still about the rate of its memory.)
// squares_of_tensors: the same over the pieces of many tensors.
// sum_of_partials: total = sum of partial, one block. clip: the same, and what follows from it for the step.
// The pieces depend on the lengths alone.

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
    // No other thread may read it: the last sum is behind the last barrier.
    return threadIdx.x == 0 ? sums[0] : 0.0;
}

// The sum over x[first .. first + piece], as far as there is x; valid in thread 0.
DEVICE double piece_total(const float* x, u64 len, u64 first, u64 piece) {
    u64 count = len - first < piece ? len - first : piece;
    const float* from = x + first;
    double sum = 0.0;
    if (is_aligned(from)) {
        for (u64 i = threadIdx.x * 4; i < count; i += THREADS * 4) {
            float v[4];
            if (i + 4 <= count) {
                load(from + i, v);
            } else {
                for (u32 j = 0; j < 4; ++j) {
                    v[j] = i + j < count ? from[i + j] : 0.0f;
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
    return block_total(sum);
}

extern "C" __global__ __launch_bounds__(THREADS) void squares_of_pieces(
    const float* x, u64 len, u64 piece, double* partial) {
    double sum = piece_total(x, len, blockIdx.x * piece, piece);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = sum;
    }
}

extern "C" __global__ __launch_bounds__(THREADS) void squares_of_tensors(
    const Tensor* tensors, u32 count, u64 piece, double* partial) {
    Tensor tensor = tensor_of(tensors, count, blockIdx.x);
    double sum = piece_total(tensor.gradient, tensor.len, (blockIdx.x - tensor.first_block) * piece, piece);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = sum;
    }
}

// Valid in thread 0.
DEVICE double partials_total(const double* partial, u32 count) {
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < count; i += THREADS) {
        sum += partial[i];
    }
    return block_total(sum);
}

extern "C" __global__ __launch_bounds__(THREADS) void sum_of_partials(const double* partial, u32 count, double* total) {
    double sum = partials_total(partial, count);
    if (threadIdx.x == 0) {
        *total = sum;
    }
}

// Neither infinite nor NaN.
DEVICE bool is_finite(double x) {
    return x - x == 0.0;
}

// max_norm of 0 does not clip.
extern "C" __global__ __launch_bounds__(THREADS) void clip(
    const double* partial, u32 count, float max_norm, Tally* tally) {
    double norm = sqrt(partials_total(partial, count));
    if (threadIdx.x == 0) {
        tally->gradient_norm = norm;
        tally->scale = max_norm > 0.0f && norm > double(max_norm) ? float(double(max_norm) / norm) : 1.0f;
        bool good = is_finite(norm) && is_finite(tally->weighted_loss) && !tally->refused;
        tally->update = good;
        tally->refused = !good;
    }
}
