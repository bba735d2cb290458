// Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): what its five Newton-Schulz steps need besides matrix
// products. X is an f32 matrix whose bf16 rounding R enters the products, which accumulate in f32.
//
// muon_momentum:   g = gradient * gradient_scale; m = beta m + (1 - beta) g; X = beta m + (1 - beta) g (Nesterov)
// muon_round:      X = X / (|X| + 1e-7) in the first step; R = round(X); X = keep X. |X|^2 is in f64 on the device.
// muon_polynomial: P = round(linear G + cubic G^2), G the Gram matrix of R; the product P R is then added to X.
// muon_apply:      w = keep w - rate X
// The momentum is kept in f32, or in bf16, rounded stochastically. With a tally, the gradient is scaled as it says, and where it says so nothing changes.
// One element a thread: the products around them take longer. Bytes: 16, 10, 10 and 12 an element.

DEVICE u64 element() {
    return u64(blockIdx.x) * 256 + threadIdx.x;
}

DEVICE void keep_momentum(float* momentum, float m, u32, u64) {
    *momentum = m;
}
DEVICE void keep_momentum(bf16* momentum, float m, u32 key, u64 index) {
    *momentum = round_by(m, random_bits(key, index));
}

// T is what the momentum is stored in; `at` is the index of the first element in its tensor.
template <typename T>
DEVICE void momentum_of(
    const float* gradient, T* momentum, float* direction, u64 len, float beta, float gradient_scale,
    const Tally* tally, u32 key, u64 at) {
    u64 i = element();
    if (i < len && !may_update(tally)) {
        // The products that follow find something.
        direction[i] = 0.0f;
    } else if (i < len) {
        float g = (1.0f - beta) * (gradient[i] * (gradient_scale * clip_scale(tally)));
        float m = fmaf(beta, to_float(momentum[i]), g);
        keep_momentum(momentum + i, m, key, at + i);
        direction[i] = fmaf(beta, m, g);
    }
}

extern "C" __global__ __launch_bounds__(256) void muon_momentum(
    const float* gradient, float* momentum, float* direction, u64 len, float beta, float gradient_scale,
    const Tally* tally, u32 key, u64 at) {
    momentum_of(gradient, momentum, direction, len, beta, gradient_scale, tally, key, at);
}

extern "C" __global__ __launch_bounds__(256) void muon_momentum_bf16(
    const float* gradient, bf16* momentum, float* direction, u64 len, float beta, float gradient_scale,
    const Tally* tally, u32 key, u64 at) {
    momentum_of(gradient, momentum, direction, len, beta, gradient_scale, tally, key, at);
}

// squares is null but in the first step.
extern "C" __global__ __launch_bounds__(256) void muon_round(
    float* x, bf16* rounded, const double* squares, u64 len, float keep) {
    u64 i = element();
    if (i < len) {
        float v = x[i];
        if (squares != nullptr) {
            v *= float(1.0 / (sqrt(*squares) + 1e-7));
        }
        rounded[i] = from_float<bf16>(v);
        x[i] = keep * v;
    }
}

extern "C" __global__ __launch_bounds__(256) void muon_polynomial(
    const float* gram, const float* square, bf16* out, u64 len, float linear, float cubic) {
    u64 i = element();
    if (i < len) {
        out[i] = from_float<bf16>(fmaf(linear, gram[i], cubic * square[i]));
    }
}

extern "C" __global__ __launch_bounds__(256) void muon_apply(
    float* weight, const float* direction, u64 len, float keep, float rate, const Tally* tally) {
    u64 i = element();
    if (i < len && may_update(tally)) {
        weight[i] = fmaf(-rate, direction[i], weight[i] * keep);
    }
}
