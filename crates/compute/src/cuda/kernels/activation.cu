// The MLP's non-linearities: exact GELU (Hendrycks and Gimpel 2016, arXiv 1606.08415), SwiGLU (Shazeer 2020,
// arXiv 2002.05202), squared ReLU (So et al. 2021, arXiv 2109.08668). x and y are S.
//
// GELU:         y = x P(x), P(x) = (1 + erf(x / sqrt 2)) / 2;  dx = dy (P(x) + x p(x)), p the normal density
// squared ReLU: y = max(x, 0)^2;                               dx = 2 dy max(x, 0)
// SwiGLU:       y = gate s(gate) up, s the logistic function, a row of x holding gate [n_ff] then up [n_ff];
//               d_gate = dy up s (1 + gate (1 - s)), d_up = dy gate s
//
// Forward: reads x, writes y. Backward: reads x and dy, writes dx over x, and where the forward pass did not keep y, y over
// dy. A thread has read everything it needs of a place before it writes there.
// 16 bytes at a time; about 20 FLOPs an element, so bound by memory, if erf takes no more than that: CUDA's erff has two
// branches, and expf comes on top. Here the tail of P, which a polynomial times e^(-x^2 / 2) approximates to 8e-8 (Abramowitz
// and Stegun 1964, 7.1.26, erf to 1.5e-7), and the density share their exponential.

struct Gelu {
    // P(x) and e^(-x^2 / 2).
    static DEVICE void parts(float x, float& distribution, float& bell) {
        // erf's argument is x / sqrt 2: 0.3275911 / sqrt 2, and -log2(e) / 2.
        float t = __fdividef(1.0f, fmaf(fabsf(x), 0.23164189f, 1.0f));
        bell = exp2_approximate(x * x * -0.72134752f);
        float sum = fmaf(t, 0.5307027145f, -0.7265760135f);
        sum = fmaf(t, sum, 0.7107068705f);
        sum = fmaf(t, sum, -0.142248368f);
        sum = fmaf(t, sum, 0.127414796f);
        float tail = t * sum * bell;
        distribution = x > 0.0f ? 1.0f - tail : tail;
    }
    static DEVICE float value(float x) {
        float distribution, bell;
        parts(x, distribution, bell);
        return x * distribution;
    }
    static DEVICE float slope(float x) {
        float distribution, bell;
        parts(x, distribution, bell);
        return fmaf(x, 0.39894228f * bell, distribution);
    }
};

struct ReluSquared {
    static DEVICE float value(float x) {
        x = fmaxf(x, 0.0f);
        return x * x;
    }
    static DEVICE float slope(float x) {
        return 2.0f * fmaxf(x, 0.0f);
    }
};

template <typename Function, u32 N>
DEVICE void apply(const S* x, S* y) {
    float v[N];
    load(x, v);
    for (u32 j = 0; j < N; ++j) {
        v[j] = Function::value(v[j]);
    }
    store(y, v);
}

template <typename Function, u32 N>
DEVICE void apply_backward(S* x, S* dy, u32 again) {
    float v[N], d[N];
    load(x, v);
    load(dy, d);
    for (u32 j = 0; j < N; ++j) {
        d[j] *= Function::slope(v[j]);
        v[j] = Function::value(v[j]);
    }
    store(x, d);
    if (again) {
        store(dy, v);
    }
}

template <typename Function>
DEVICE void flat(const S* x, S* y, u64 len) {
    u64 first = (u64(blockIdx.x) * 256 + threadIdx.x) * WIDE;
    if (first + WIDE <= len) {
        apply<Function, WIDE>(x + first, y + first);
    } else {
        for (u64 i = first; i < len; ++i) {
            apply<Function, 1>(x + i, y + i);
        }
    }
}

template <typename Function>
DEVICE void flat_backward(S* x, S* dy, u64 len, u32 again) {
    u64 first = (u64(blockIdx.x) * 256 + threadIdx.x) * WIDE;
    if (first + WIDE <= len) {
        apply_backward<Function, WIDE>(x + first, dy + first, again);
    } else {
        for (u64 i = first; i < len; ++i) {
            apply_backward<Function, 1>(x + i, dy + i, again);
        }
    }
}

extern "C" __global__ __launch_bounds__(256) void gelu(const S* x, S* y, u64 len) {
    flat<Gelu>(x, y, len);
}

extern "C" __global__ __launch_bounds__(256) void gelu_backward(S* x, S* dy, u64 len, u32 again) {
    flat_backward<Gelu>(x, dy, len, again);
}

extern "C" __global__ __launch_bounds__(256) void relu_squared(const S* x, S* y, u64 len) {
    flat<ReluSquared>(x, y, len);
}

extern "C" __global__ __launch_bounds__(256) void relu_squared_backward(S* x, S* dy, u64 len, u32 again) {
    flat_backward<ReluSquared>(x, dy, len, again);
}

DEVICE float logistic(float x) {
    return 1.0f / (1.0f + expf(-x));
}

template <u32 N>
DEVICE void swiglu_piece(const S* gate, const S* up, S* y) {
    float g[N], u[N];
    load(gate, g);
    load(up, u);
    for (u32 j = 0; j < N; ++j) {
        g[j] = g[j] * logistic(g[j]) * u[j];
    }
    store(y, g);
}

template <u32 N>
DEVICE void swiglu_backward_piece(S* gate, S* up, S* dy, u32 again) {
    float g[N], u[N], d[N], out[N];
    load(gate, g);
    load(up, u);
    load(dy, d);
    for (u32 j = 0; j < N; ++j) {
        float s = logistic(g[j]), silu = g[j] * s;
        out[j] = silu * u[j];
        g[j] = d[j] * u[j] * s * (1.0f + g[j] * (1.0f - s));
        u[j] = d[j] * silu;
    }
    store(gate, g);
    store(up, u);
    if (again) {
        store(dy, out);
    }
}

// Block (row, piece): a piece is 256 threads' worth of a row.
extern "C" __global__ __launch_bounds__(256) void swiglu(const S* x, S* y, u32 n_ff) {
    const S* gate = x + u64(blockIdx.x) * 2 * n_ff;
    S* out = y + u64(blockIdx.x) * n_ff;
    u32 first = (blockIdx.y * 256 + threadIdx.x) * WIDE;
    if (n_ff % WIDE == 0) {
        if (first < n_ff) {
            swiglu_piece<WIDE>(gate + first, gate + n_ff + first, out + first);
        }
    } else {
        for (u32 i = first; i < first + WIDE && i < n_ff; ++i) {
            swiglu_piece<1>(gate + i, gate + n_ff + i, out + i);
        }
    }
}

extern "C" __global__ __launch_bounds__(256) void swiglu_backward(S* x, S* dy, u32 n_ff, u32 again) {
    u64 row = u64(blockIdx.x) * n_ff;
    S* gate = x + 2 * row;
    u32 first = (blockIdx.y * 256 + threadIdx.x) * WIDE;
    if (n_ff % WIDE == 0) {
        if (first < n_ff) {
            swiglu_backward_piece<WIDE>(gate + first, gate + n_ff + first, dy + row + first, again);
        }
    } else {
        for (u32 i = first; i < first + WIDE && i < n_ff; ++i) {
            swiglu_backward_piece<1>(gate + i, gate + n_ff + i, dy + row + i, again);
        }
    }
}
