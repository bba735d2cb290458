// AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) on f32 weights and gradients, in place, with moments in f32, bf16 or
// 8 bits: all tensors of a step in one launch, scaled as its tally says, or left alone.
//
// g = gradient * gradient_scale; m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
// w = w keep - rate m / (sqrt(v) root + eps), where keep = 1 - lr weight_decay, rate = lr / (1 - beta1^step) and
// root = 1 / sqrt(1 - beta2^step) are the host's. The new weights are rounded into the matrices that products read, instead
// of reading them again for that. Weights and moments may lie in the host's memory.
// Bytes an element: reads 8, writes 4, and 2 or 4 for the matrix; moments 8, 4 or 2.06 each way. 14 FLOPs, and 30 for
// 8-bit codes.

struct Update {
    float gradient_scale, beta1, beta2, eps, keep, rate, root;
};

template <u32 N>
DEVICE void update_piece(float (&w)[N], const float (&g)[N], float (&m)[N], float (&v)[N], const Update& update) {
    for (u32 j = 0; j < N; ++j) {
        float scaled = g[j] * update.gradient_scale;
        m[j] = fmaf(update.beta1, m[j], (1.0f - update.beta1) * scaled);
        v[j] = fmaf(update.beta2, v[j], (1.0f - update.beta2) * (scaled * scaled));
        w[j] = w[j] * update.keep - update.rate * m[j] / fmaf(sqrtf(v[j]), update.root, update.eps);
    }
}

template <u32 N>
DEVICE void store_moments(float* first, float* second, const float (&m)[N], const float (&v)[N], u32, u64) {
    store(first, m);
    store(second, v);
}
template <u32 N>
DEVICE void store_moments(bf16* first, bf16* second, const float (&m)[N], const float (&v)[N], u32 key, u64 at) {
    store_by(first, m, key, at, 0);
    store_by(second, v, key, at, 16);
}

template <u32 N>
DEVICE void refresh(const Tensor& tensor, u64 at, const float (&w)[N]) {
    if (tensor.matrix == nullptr) {
        return;
    }
    if (tensor.rounding == 0) {
        store(static_cast<float*>(tensor.matrix) + at, w);
    } else if (tensor.rounding == 1) {
        store(static_cast<bf16*>(tensor.matrix) + at, w);
    } else {
        store_by(static_cast<bf16*>(tensor.matrix) + at, w, weights_key(tensor.key), at, 0);
    }
}

// T is what moments are stored in.
template <typename T, u32 N>
DEVICE void plain_piece(const Tensor& tensor, u64 at, const Update& update) {
    T* first = static_cast<T*>(tensor.first) + at;
    T* second = static_cast<T*>(tensor.second) + at;
    float w[N], g[N], m[N], v[N];
    load(tensor.weight + at, w);
    load(tensor.gradient + at, g);
    load(first, m);
    load(second, v);
    update_piece(w, g, m, v, update);
    store(tensor.weight + at, w);
    store_moments(first, second, m, v, tensor.key, at);
    refresh(tensor, at, w);
}

template <typename T>
DEVICE void plain(const Tensor& tensor, u64 at, const Update& update) {
    if (at + 4 <= tensor.len) {
        plain_piece<T, 4>(tensor, at, update);
    } else {
        for (u64 i = at; i < tensor.len; ++i) {
            plain_piece<T, 1>(tensor, i, update);
        }
    }
}

// A block of 8-bit moments by a warp; `at` is the lane's first element. Behind the tensor's end there are zeros.
DEVICE void coded(const Tensor& tensor, u64 at, const Update& update) {
    u64 block = at / MOMENT_BLOCK, blocks = (tensor.len + MOMENT_BLOCK - 1) / MOMENT_BLOCK;
    if (block >= blocks) {
        // The whole warp leaves.
        return;
    }
    u32* first = static_cast<u32*>(tensor.first);
    u32* second = static_cast<u32*>(tensor.second);
    float* first_step = reinterpret_cast<float*>(first + blocks * BLOCK_WORDS) + block;
    float* second_step = reinterpret_cast<float*>(second + blocks * BLOCK_WORDS) + block;
    float w[4] = {}, g[4] = {}, m[4], v[4];
    bool whole = at + 4 <= tensor.len;
    if (whole) {
        load(tensor.weight + at, w);
        load(tensor.gradient + at, g);
    } else {
        for (u32 j = 0; j < 4; ++j) {
            if (at + j < tensor.len) {
                w[j] = tensor.weight[at + j];
                g[j] = tensor.gradient[at + j];
            }
        }
    }
    u32 m_word = first[at / 4], v_word = second[at / 4];
    float m_step = *first_step, v_step = *second_step;
    for (u32 j = 0; j < 4; ++j) {
        m[j] = first_value((m_word >> (8 * j)) & 0xffu, m_step);
        v[j] = second_value((v_word >> (8 * j)) & 0xffu, v_step);
    }
    update_piece(w, g, m, v, update);
    float m_largest = 0.0f, v_largest = 0.0f;
    for (u32 j = 0; j < 4; ++j) {
        m_largest = fmaxf(m_largest, fabsf(m[j]));
        v_largest = fmaxf(v_largest, v[j]);
    }
    // In these reductions every lane has read the old steps, before the first one writes the new.
    Step m_new = block_step(warp_max(m_largest), FIRST_TOP);
    Step v_new = block_step(warp_max(v_largest), SECOND_TOP);
    m_word = 0;
    v_word = 0;
    for (u32 j = 0; j < 4; ++j) {
        u32 random = random_bits(tensor.key, at + j);
        m_word |= first_code(m[j], m_new.inverse, random) << (8 * j);
        v_word |= second_code(v[j], v_new.inverse, random) << (8 * j);
    }
    first[at / 4] = m_word;
    second[at / 4] = v_word;
    if (threadIdx.x % WARP == 0) {
        *first_step = m_new.step;
        *second_step = v_new.step;
    }
    if (whole) {
        store(tensor.weight + at, w);
        refresh(tensor, at, w);
    } else {
        for (u32 j = 0; j < 4; ++j) {
            if (at + j < tensor.len) {
                float one[1] = {w[j]};
                store(tensor.weight + at + j, one);
                refresh(tensor, at + j, one);
            }
        }
    }
}

// A block takes 4096 elements of a tensor: 32 blocks of moments. `tally` may be null.
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
        if (tensor.moments == 0) {
            plain<float>(tensor, at, update);
        } else if (tensor.moments == 1) {
            plain<bf16>(tensor, at, update);
        } else {
            coded(tensor, at, update);
        }
    }
}
