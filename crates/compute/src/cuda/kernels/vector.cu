// What the products of few tokens share: a warp takes a row of the weight, a block four of them.

#define ROWS 4u

// sum += w values, in order, each product fused.
template <u32 N>
DEVICE void add_products(const float (&w)[N], const float (&values)[N], float& sum) {
#pragma unroll
    for (u32 i = 0; i < N; ++i) {
        sum = fmaf(w[i], values[i], sum);
    }
}

// Adds the lanes' sums of each token and puts them where they belong. kind 0: f32, overwritten; 1: S, overwritten; 2: f32,
// added to.
template <u32 TOKENS>
DEVICE void write_sums(
    const float (&sum)[TOKENS], const float* bias, void* out, u32 kind, u32 tokens, u32 rows, u32 row) {
#pragma unroll
    for (u32 t = 0; t < TOKENS; ++t) {
        float total = warp_sum(sum[t]);
        if (threadIdx.x % WARP == 0 && t < tokens) {
            u64 at = u64(t) * rows + row;
            total += bias ? bias[row] : 0.0f;
            if (kind == 1) {
                static_cast<S*>(out)[at] = from_float<S>(total);
            } else {
                float* to = static_cast<float*>(out) + at;
                *to = kind == 2 ? *to + total : total;
            }
        }
    }
}
