// AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) on f32 weights, gradients and moments, in place.
//
// g = gradient * gradient_scale; m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
// w = w keep - rate m / (sqrt(v) root + eps), where keep = 1 - lr weight_decay, rate = lr / (1 - beta1^step) and
// root = 1 / sqrt(1 - beta2^step) are the host's. Bytes: reads 16, writes 12 an element; 14 FLOPs.
//
// adamw:     one tensor.
// adamw_all: all tensors of a step, scaled as its tally says, or left alone; rounds the new weights into the matrices that
//            products read, 2 or 4 bytes more an element, instead of reading them again for that.

struct Update {
    float gradient_scale, beta1, beta2, eps, keep, rate, root;
};

// The new weights are left in w as well.
template <u32 N>
DEVICE void adamw_piece(
    float* weight, const float* gradient, float* first, float* second, const Update& update, float (&w)[N]) {
    float g[N], m[N], v[N];
    load(weight, w);
    load(gradient, g);
    load(first, m);
    load(second, v);
    for (u32 j = 0; j < N; ++j) {
        float scaled = g[j] * update.gradient_scale;
        m[j] = fmaf(update.beta1, m[j], (1.0f - update.beta1) * scaled);
        v[j] = fmaf(update.beta2, v[j], (1.0f - update.beta2) * (scaled * scaled));
        w[j] = w[j] * update.keep - update.rate * m[j] / fmaf(sqrtf(v[j]), update.root, update.eps);
    }
    store(weight, w);
    store(first, m);
    store(second, v);
}

extern "C" __global__ __launch_bounds__(256) void adamw(
    float* weight, const float* gradient, float* first, float* second, u64 len, float gradient_scale, float beta1,
    float beta2, float eps, float keep, float rate, float root) {
    Update update = {gradient_scale, beta1, beta2, eps, keep, rate, root};
    u64 at = (u64(blockIdx.x) * 256 + threadIdx.x) * 4;
    if (at + 4 <= len) {
        float w[4];
        adamw_piece(weight + at, gradient + at, first + at, second + at, update, w);
    } else {
        for (u64 i = at; i < len; ++i) {
            float w[1];
            adamw_piece(weight + i, gradient + i, first + i, second + i, update, w);
        }
    }
}

template <u32 N>
DEVICE void tensor_piece(const Tensor& tensor, u64 at, const Update& update) {
    float w[N];
    adamw_piece(tensor.weight + at, tensor.gradient + at, tensor.first + at, tensor.second + at, update, w);
    if (tensor.matrix == nullptr) {
        return;
    }
    if (tensor.matrix_is_bf16) {
        store(static_cast<bf16*>(tensor.matrix) + at, w);
    } else {
        store(static_cast<float*>(tensor.matrix) + at, w);
    }
}

// A block takes 4096 elements of a tensor.
extern "C" __global__ __launch_bounds__(256) void adamw_all(
    const Tensor* tensors, u32 count, const Tally* tally, float gradient_scale, float beta1, float beta2, float eps,
    float rate, float root) {
    if (!may_update(tally)) {
        return;
    }
    Tensor tensor = tensor_of(tensors, count, blockIdx.x);
    Update update = {gradient_scale * clip_scale(tally), beta1, beta2, eps, tensor.keep, rate, root};
    u64 first = u64(blockIdx.x - tensor.first_block) * 4096;
    for (u32 round = 0; round < 4; ++round) {
        u64 at = first + (round * 256 + threadIdx.x) * 4;
        if (at + 4 <= tensor.len) {
            tensor_piece<4>(tensor, at, update);
        } else {
            for (u64 i = at; i < tensor.len; ++i) {
                tensor_piece<1>(tensor, i, update);
            }
        }
    }
}
