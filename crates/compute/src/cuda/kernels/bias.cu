// A bias for a matrix product whose epilogue does not add it in f32.
//
// round_bias: rounded[j] = bias[j], for an epilogue that takes its bias in bf16 only; 4 + 2 bytes an element.
// put_bias:   y[i, j] = bias[j], or y[i, j] += bias[j] with `add`, ahead of a product that is added to y, where no epilogue
//             will do; with `shorten` the bias is rounded to bf16, as the epilogue would have had it. A block a row,
//             2 sizeof(S) bytes an element.

extern "C" __global__ __launch_bounds__(256) void round_bias(bf16* rounded, const float* bias, u32 width) {
    u32 j = blockIdx.x * 256 + threadIdx.x;
    if (j < width) {
        rounded[j] = from_float<bf16>(bias[j]);
    }
}

extern "C" __global__ __launch_bounds__(256) void put_bias(
    S* y, const float* bias, u32 width, u64 row_stride, u32 add, u32 shorten) {
    S* row = y + blockIdx.x * row_stride;
    for (u32 j = threadIdx.x; j < width; j += 256) {
        float x = shorten ? to_float(from_float<bf16>(bias[j])) : bias[j];
        row[j] = from_float<S>(add ? to_float(row[j]) + x : x);
    }
}
