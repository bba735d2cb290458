// Softmax and cross-entropy over rows of logits, and the totals of a batch.
//
// cross_entropy, for a row of f32 logits l [vocab_size] with largest element m: total = sum exp(l - m),
// loss = log(total) + m - l[target]. With a gradient, the row is overwritten by d_logits = scale w (exp(l - m) / total -
// onehot(target)) in S; for bf16 it fills the first half of the row's memory.
// One block a row. The largest element and the total come out of one pass (Milakov and Gimelshein 2018, arXiv 1805.02867);
// the second pass finds the row in the second-level cache. Bytes: read 4 vocab_size, with a gradient twice, write
// sizeof(S) vocab_size. FLOPs: about 10 vocab_size.
//
// head_totals: adds to a tally sum w loss, sum w, rows of w != 0, and of those the correct ones; f64 and integers, one
// block.

constexpr u32 THREADS = 512;
// Below every logit but -inf, and finite, so that a difference of two is never NaN by itself.
constexpr float LOWEST = -3.0e38f;

// Adds N logits to a running maximum and total.
template <u32 N>
DEVICE void add_logits(const float* logits, float& max, float& total) {
    float v[N];
    load(logits, v);
    float higher = max;
    for (u32 j = 0; j < N; ++j) {
        higher = fmaxf(higher, v[j]);
    }
    total *= expf(max - higher);
    for (u32 j = 0; j < N; ++j) {
        total += expf(v[j] - higher);
    }
    max = higher;
}

struct Row {
    float max, factor, scale;
    u32 target;
};

DEVICE float d_logit(float logit, u32 column, const Row& row) {
    float share = expf(logit - row.max) * row.factor;
    return column == row.target ? share - row.scale : share;
}

// row i of logits is that of token rows[i], or of token first_token + i where rows is null. `stride`, in floats, is a
// multiple of 4.
extern "C" __global__ __launch_bounds__(THREADS) void cross_entropy(
    float* logits, const u32* rows, u32 first_token, const u32* targets, const float* weights, float* losses,
    u32* correct, float scale, u32 vocab_size, u32 stride, u32 with_gradient) {
    SHARED_MEMORY(float, scratch); // [THREADS / 32]
    float* from = logits + u64(blockIdx.x) * stride;
    u32 token = rows != nullptr ? rows[blockIdx.x] : first_token + blockIdx.x;
    u32 target = targets[token];
    float at_target = from[target];
    float max = LOWEST, total = 0.0f;
    for (u32 i = threadIdx.x * 4; i < vocab_size; i += THREADS * 4) {
        if (i + 4 <= vocab_size) {
            add_logits<4>(from + i, max, total);
        } else {
            for (u32 j = i; j < vocab_size; ++j) {
                add_logits<1>(from + j, max, total);
            }
        }
    }
    float row_max = block_max<THREADS>(max, scratch);
    total = block_sum<THREADS>(total * expf(max - row_max), scratch);
    if (threadIdx.x == 0) {
        losses[token] = logf(total) + row_max - at_target;
        correct[token] = at_target >= row_max;
    }
    if (!with_gradient) {
        return;
    }
    scale *= weights[token];
    Row row = {row_max, scale / total, scale, target};
    S* to = reinterpret_cast<S*>(from);
    for (u32 first = 0; first < vocab_size; first += THREADS * 4) {
        u32 i = first + threadIdx.x * 4;
        float v[4];
        if (i + 4 <= vocab_size) {
            load(from + i, v);
        } else {
            for (u32 j = 0; j < 4; ++j) {
                v[j] = i + j < vocab_size ? from[i + j] : 0.0f;
            }
        }
        // In bf16 a piece is written where an earlier part of the row, or of this piece, was: all must have read it.
        __syncthreads();
        for (u32 j = 0; j < 4; ++j) {
            v[j] = d_logit(v[j], i + j, row);
        }
        if (i + 4 <= vocab_size) {
            store(to + i, v);
        } else {
            for (u32 j = 0; i + j < vocab_size && j < 4; ++j) {
                to[i + j] = from_float<S>(v[j]);
            }
        }
    }
}

struct Sums {
    double weighted_loss, weight;
    u64 counted, correct;
};

extern "C" __global__ __launch_bounds__(256) void head_totals(
    const float* losses, const u32* correct, const float* weights, Tally* tally, u32 tokens) {
    SHARED_MEMORY(Sums, sums); // [256]
    Sums mine = {0.0, 0.0, 0, 0};
    for (u32 i = threadIdx.x; i < tokens; i += 256) {
        float weight = weights[i];
        if (weight != 0.0f) {
            mine.weighted_loss += double(weight) * double(losses[i]);
            mine.weight += double(weight);
            mine.counted += 1;
            mine.correct += correct[i];
        }
    }
    sums[threadIdx.x] = mine;
    for (u32 half = 128; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            const Sums& other = sums[threadIdx.x + half];
            Sums& to = sums[threadIdx.x];
            to.weighted_loss += other.weighted_loss;
            to.weight += other.weight;
            to.counted += other.counted;
            to.correct += other.correct;
        }
    }
    if (threadIdx.x == 0) {
        tally->weighted_loss += sums[0].weighted_loss;
        tally->weight += sums[0].weight;
        tally->counted += sums[0].counted;
        tally->correct += sums[0].correct;
    }
}
