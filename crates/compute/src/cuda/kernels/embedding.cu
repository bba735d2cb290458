// The embedding and its gradient.
//
// embedding: x[t, :] = table[ids[t], :], S to f32. Bytes: width * (sizeof(S) + 4) a token.
//
// Its gradient is a sum over the tokens of one id, and sums have one order: that of the tokens. So the tokens are first
// sorted by id, stably, by counting for each token how many go before it (Knuth 1998, volume 3, section 5.2, "comparison
// counting"): tokens^2 comparisons of 4-byte words out of shared memory, 3e8 for 16,384 tokens, which is less than a
// thousandth of what the rest of such a batch costs even a small model. Nothing is atomic, nothing depends on who comes
// first. Then each run of equal ids has one owner for every column:
//
// embedding_backward: d_table[id, :] += sum over its tokens, in order, of dx[t, :]. Bytes: 4 * width a token, and 8 * width
// for each different id.

extern "C" __global__ __launch_bounds__(128) void embedding(const S* table, const u32* ids, float* x, u32 width) {
    const S* from = table + u64(ids[blockIdx.x]) * width;
    float* to = x + u64(blockIdx.x) * width;
    if (width % WIDE == 0) {
        for (u32 i = threadIdx.x * WIDE; i < width; i += blockDim.x * WIDE) {
            float values[WIDE];
            load(from + i, values);
            store(to + i, values);
        }
    } else {
        for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
            to[i] = to_float(from[i]);
        }
    }
}

// order: the tokens sorted by (id, token).
extern "C" __global__ __launch_bounds__(256) void embedding_order(const u32* ids, u32* order, u32 tokens) {
    SHARED_MEMORY(u32, tile);
    u32 token = blockIdx.x * 256 + threadIdx.x;
    u32 id = token < tokens ? ids[token] : 0;
    u32 place = 0;
    for (u32 first = 0; first < tokens; first += 256) {
        u32 count = min(256u, tokens - first);
        if (threadIdx.x < count) {
            tile[threadIdx.x] = ids[first + threadIdx.x];
        }
        __syncthreads();
        for (u32 j = 0; j < count; ++j) {
            u32 other = tile[j];
            place += other < id || (other == id && first + j < token);
        }
        __syncthreads();
    }
    if (token < tokens) {
        order[place] = token;
    }
}

template <u32 N>
DEVICE void add_run(const u32* ids, const u32* order, const float* dx, float* d_table, u32 tokens, u32 width) {
    u32 id = ids[order[blockIdx.x]];
    u32 column = (blockIdx.y * 128 + threadIdx.x) * N;
    if (column >= width || (blockIdx.x > 0 && ids[order[blockIdx.x - 1]] == id)) {
        return;
    }
    float* to = d_table + u64(id) * width + column;
    float sum[N];
    load(to, sum);
    for (u32 i = blockIdx.x; i < tokens; ++i) {
        u32 token = order[i];
        if (ids[token] != id) {
            break;
        }
        float x[N];
        load(dx + u64(token) * width + column, x);
        for (u32 j = 0; j < N; ++j) {
            sum[j] += x[j];
        }
    }
    store(to, sum);
}

// One block for each place in the order: only the first of a run works.
extern "C" __global__ __launch_bounds__(128) void embedding_backward(
    const u32* ids, const u32* order, const float* dx, float* d_table, u32 tokens, u32 width) {
    if (width % 4 == 0) {
        add_run<4>(ids, order, dx, d_table, tokens, width);
    } else {
        add_run<1>(ids, order, dx, d_table, tokens, width);
    }
}
