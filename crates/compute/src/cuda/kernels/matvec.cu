// Linear layers of few tokens: out[t, r] = sum over c of x[t, c] weight[r, c] (+ bias[r]), for 1 to 8 tokens, where a matrix
// product would leave most of a tile idle. Decoding is bound by the weights' bytes, and this reads them once.
//
//   x S [tokens, columns]; weight S [rows, columns]; bias f32 [rows] or null; out [tokens, rows], see write_sum
//
// A warp takes a row: each lane 16 bytes of every 512, four such loads on their way at once with few tokens. Bytes:
// sizeof(S) * rows * columns of weights from memory; x comes from the L1 cache, which holds it for all rows. FLOPs:
// 2 * tokens * rows * columns.
//
// A lane adds in the order of the columns, and the lanes in a tree: a token's sum has one order, whatever other tokens there
// are.

template <u32 TOKENS>
DEVICE void matvec(
    const S* x, const S* weight, const float* bias, void* out, u32 kind, u32 tokens, u32 rows, u32 columns) {
    u32 row = blockIdx.x * ROWS + threadIdx.x / WARP;
    u32 lane = threadIdx.x % WARP;
    if (row >= rows) {
        return;
    }
    const S* from = weight + u64(row) * columns;
    float sum[TOKENS] = {};
    if (columns % WIDE == 0) {
#pragma unroll(TOKENS <= 2 ? 4 : 1)
        for (u32 i = lane * WIDE; i < columns; i += WARP * WIDE) {
            float w[WIDE];
            load(from + i, w);
#pragma unroll
            for (u32 t = 0; t < TOKENS; ++t) {
                if (t < tokens) {
                    float values[WIDE];
                    load(x + u64(t) * columns + i, values);
                    add_products(w, values, sum[t]);
                }
            }
        }
    } else {
        for (u32 i = lane; i < columns; i += WARP) {
            float w[1] = {to_float(from[i])};
#pragma unroll
            for (u32 t = 0; t < TOKENS; ++t) {
                if (t < tokens) {
                    float values[1] = {to_float(x[u64(t) * columns + i])};
                    add_products(w, values, sum[t]);
                }
            }
        }
    }
    write_sums(sum, bias, out, kind, tokens, rows, row);
}

extern "C" __global__ __launch_bounds__(128) void matvec_1(
    const S* x, const S* weight, const float* bias, void* out, u32 kind, u32 tokens, u32 rows, u32 columns) {
    matvec<1>(x, weight, bias, out, kind, tokens, rows, columns);
}
extern "C" __global__ __launch_bounds__(128) void matvec_2(
    const S* x, const S* weight, const float* bias, void* out, u32 kind, u32 tokens, u32 rows, u32 columns) {
    matvec<2>(x, weight, bias, out, kind, tokens, rows, columns);
}
extern "C" __global__ __launch_bounds__(128) void matvec_4(
    const S* x, const S* weight, const float* bias, void* out, u32 kind, u32 tokens, u32 rows, u32 columns) {
    matvec<4>(x, weight, bias, out, kind, tokens, rows, columns);
}
extern "C" __global__ __launch_bounds__(128) void matvec_8(
    const S* x, const S* weight, const float* bias, void* out, u32 kind, u32 tokens, u32 rows, u32 columns) {
    matvec<8>(x, weight, bias, out, kind, tokens, rows, columns);
}
