// A bias for a matrix product whose epilogue does not add it in f32.
//
// round_bias: rounded[j] = bias[j], for an epilogue that takes its bias in bf16 only; 4 + 2 bytes an element.
// add_bias:   y[i, j] += bias[j], where no epilogue will do; a block a row, 2 sizeof(S) bytes and 1 FLOP an element.

extern "C" __global__ __launch_bounds__(256) void round_bias(bf16* rounded, const float* bias, u32 width) {
    u32 j = blockIdx.x * 256 + threadIdx.x;
    if (j < width) {
        rounded[j] = from_float<bf16>(bias[j]);
    }
}

extern "C" __global__ __launch_bounds__(256) void add_bias(S* y, const float* bias, u32 width, u64 row_stride) {
    S* row = y + blockIdx.x * row_stride;
    for (u32 j = threadIdx.x; j < width; j += 256) {
        row[j] = from_float<S>(to_float(row[j]) + bias[j]);
    }
}
