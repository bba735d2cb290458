// Sums over the rows of a matrix, in two stages of fixed order: a bias's gradient, and the second stage of every gradient
// that is summed over tokens.
//
// column_sums:  partial[chunk, c] = sum over the chunk's rows of x[row, c]; reads sizeof(S) bytes an element, 1 FLOP.
// add_partials: out[c] += sum over chunks of partial[chunk, c].
// A block owns 32 columns; its warps read a row each at a time, and their sums are then added in order.

// The sum of a column over rows first, first + 1, ... end - 1, valid in the block's first warp.
template <u32 WARPS, typename T>
DEVICE float column_sum(const T* x, u64 stride, u32 column, u32 width, u32 first, u32 end) {
    SHARED_MEMORY(float, sums); // [WARPS][32]
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float sum = 0.0f;
    if (column < width) {
#pragma unroll 4
        for (u32 row = first + warp; row < end; row += WARPS) {
            sum += to_float(x[row * stride + column]);
        }
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    sum = 0.0f;
    for (u32 w = 0; w < WARPS; ++w) {
        sum += sums[w * 32 + lane];
    }
    return sum;
}

extern "C" __global__ __launch_bounds__(256) void column_sums(
    const S* x, float* partial, u32 rows, u32 width, u32 rows_per_chunk) {
    u32 column = blockIdx.x * 32 + threadIdx.x % 32;
    u32 first = blockIdx.y * rows_per_chunk;
    float sum = column_sum<8>(x, width, column, width, first, min(first + rows_per_chunk, rows));
    if (threadIdx.x < 32 && column < width) {
        partial[u64(blockIdx.y) * width + column] = sum;
    }
}

// One output for each y of the grid; the second one's sums lie `width` behind the first one's. Few columns and many chunks: what
// takes time is waiting for memory, so many warps wait together.
extern "C" __global__ __launch_bounds__(1024) void add_partials(
    const float* partial, float* first, float* second, u32 chunks, u32 stride, u32 width) {
    u32 column = blockIdx.x * 32 + threadIdx.x % 32;
    float sum = column_sum<32>(partial + blockIdx.y * width, stride, column, width, 0, chunks);
    if (threadIdx.x < 32 && column < width) {
        float* out = blockIdx.y == 0 ? first : second;
        out[column] += sum;
    }
}
