// Sums over the rows of a matrix, in two stages of fixed order: a bias's gradient, and the second stage of every gradient
// that is summed over tokens.
//
// column_sums:  partial[chunk, c] = sum over the chunk's rows of x[row, c]; reads sizeof(S) bytes an element, 1 FLOP.
// add_partials: out[c] += sum over chunks of partial[chunk, c].
// A block owns 32 columns; eight rows at a time are read by its eight warps, whose sums are then added in order.

// The sum of a column over rows first, first + 1, ... end - 1, valid in the block's first warp.
template <typename T>
DEVICE float column_sum(const T* x, u64 stride, u32 column, u32 width, u32 first, u32 end) {
    SHARED_MEMORY(float, sums); // [8][32]
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float sum = 0.0f;
    if (column < width) {
        for (u32 row = first + warp; row < end; row += 8) {
            sum += to_float(x[row * stride + column]);
        }
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    sum = 0.0f;
    for (u32 w = 0; w < 8; ++w) {
        sum += sums[w * 32 + lane];
    }
    return sum;
}

extern "C" __global__ __launch_bounds__(256) void column_sums(
    const S* x, float* partial, u32 rows, u32 width, u32 rows_per_chunk) {
    u32 column = blockIdx.x * 32 + threadIdx.x % 32;
    u32 first = blockIdx.y * rows_per_chunk;
    float sum = column_sum(x, width, column, width, first, min(first + rows_per_chunk, rows));
    if (threadIdx.x < 32 && column < width) {
        partial[u64(blockIdx.y) * width + column] = sum;
    }
}

extern "C" __global__ __launch_bounds__(256) void add_partials(
    const float* partial, float* out, u32 chunks, u32 stride, u32 width) {
    u32 column = blockIdx.x * 32 + threadIdx.x % 32;
    float sum = column_sum(partial, stride, column, width, 0, chunks);
    if (threadIdx.x < 32 && column < width) {
        out[column] += sum;
    }
}
