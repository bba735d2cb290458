// Many tensors in one launch: a model has hundreds of parameters, most of them small.
// (cuda/step.rs has the same structure.)
struct Tensor {
    float* weight;
    const float* gradient;
    // Moments, in the format that `moments` says.
    void* first;
    void* second;
    // What the matrix products read, refreshed with the weight; null for a vector.
    void* matrix;
    u64 len;
    // The first block that works on this tensor; those of the next one follow.
    u32 first_block;
    // Of the matrix: 0 for float, 1 for bf16 to nearest, 2 for bf16 stochastically.
    u16 rounding;
    // 0 for float, 1 for bf16, 2 for 8 bits.
    u16 moments;
    // 1 - lr weight_decay
    float keep;
    // Of stochastic rounding.
    u32 key;
};

// The tensor that a block works on: the last whose first block is not behind it.
DEVICE const Tensor& tensor_of(const Tensor* tensors, u32 count, u32 block) {
    u32 low = 0, high = count;
    while (high - low > 1) {
        u32 middle = (low + high) / 2;
        if (tensors[middle].first_block <= block) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return tensors[low];
}
