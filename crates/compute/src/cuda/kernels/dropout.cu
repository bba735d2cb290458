// Dropout (Srivastava et al. 2014, JMLR 15): which elements fall is a 32-bit mix of the element's index and the site's key
// (Wellons, "lowbias32"), the same bits as on every other device; the others are multiplied by 1 / (1 - rate).
//
// dropout_add:     x += dropout(branch)            reads 4 + sizeof(S), writes 4 bytes an element
// dropout:         x = dropout(x)                  reads and writes 4
// branch_gradient: branch = round(dropout(dx))     reads 4, writes sizeof(S)
// The host computes key, threshold and scale; a threshold of 0 with a scale of 1 drops nothing and changes nothing.

DEVICE float mask(u64 index, u32 key, u32 threshold, float scale) {
    return random_bits(key, index) < threshold ? 0.0f : scale;
}

template <u32 N>
DEVICE void add_piece(const S* branch, float* x, u64 at, u32 key, u32 threshold, float scale) {
    float b[N], v[N];
    load(branch + at, b);
    load(x + at, v);
    for (u32 j = 0; j < N; ++j) {
        v[j] += b[j] * mask(at + j, key, threshold, scale);
    }
    store(x + at, v);
}

extern "C" __global__ __launch_bounds__(256) void dropout_add(
    const S* branch, float* x, u64 len, u32 key, u32 threshold, float scale) {
    u64 first = (u64(blockIdx.x) * 256 + threadIdx.x) * WIDE;
    if (first + WIDE <= len) {
        add_piece<WIDE>(branch, x, first, key, threshold, scale);
    } else {
        for (u64 i = first; i < len; ++i) {
            add_piece<1>(branch, x, i, key, threshold, scale);
        }
    }
}

// T is float, where x and out are one buffer, or S.
template <u32 N, typename T>
DEVICE void drop_piece(const float* x, T* out, u64 at, u32 key, u32 threshold, float scale) {
    float v[N];
    load(x + at, v);
    for (u32 j = 0; j < N; ++j) {
        v[j] *= mask(at + j, key, threshold, scale);
    }
    store(out + at, v);
}

template <typename T>
DEVICE void drop(const float* x, T* out, u64 len, u32 key, u32 threshold, float scale) {
    u64 first = (u64(blockIdx.x) * 256 + threadIdx.x) * WIDE;
    if (first + WIDE <= len) {
        drop_piece<WIDE>(x, out, first, key, threshold, scale);
    } else {
        for (u64 i = first; i < len; ++i) {
            drop_piece<1>(x, out, i, key, threshold, scale);
        }
    }
}

extern "C" __global__ __launch_bounds__(256) void dropout(float* x, u64 len, u32 key, u32 threshold, float scale) {
    drop(x, x, len, key, threshold, scale);
}

extern "C" __global__ __launch_bounds__(256) void branch_gradient(
    const float* dx, S* branch, u64 len, u32 key, u32 threshold, float scale) {
    drop(dx, branch, len, key, threshold, scale);
}
