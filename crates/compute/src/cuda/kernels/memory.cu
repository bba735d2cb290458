// Rows gathered and scattered by index, and f32 values rounded to bf16.
//
// gather_rows:  to[i, :] = from[rows[i], :]      scatter_rows: to[rows[i], :] = from[i, :]
//   S [count, width]; reads and writes width * sizeof(S) bytes a row, 16 at a time where rows are multiples of it.
// round_to_bf16: to[i] = round(from[i]), to nearest even; reads 4 bytes and writes 2 an element.
// round_stochastically: the same up or down by chance.
// No arithmetic to speak of: all are bound by memory.

// A row by all threads of a block.
DEVICE void copy_row(const S* from, S* to, u32 width) {
    if (width % WIDE == 0) {
        for (u32 i = threadIdx.x * WIDE; i < width; i += blockDim.x * WIDE) {
            store_vector(to + i, load_vector(from + i));
        }
    } else {
        for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
            to[i] = from[i];
        }
    }
}

extern "C" __global__ __launch_bounds__(128) void gather_rows(const S* from, const u32* rows, S* to, u32 width) {
    copy_row(from + u64(rows[blockIdx.x]) * width, to + u64(blockIdx.x) * width, width);
}

extern "C" __global__ __launch_bounds__(128) void scatter_rows(const S* from, const u32* rows, S* to, u32 width) {
    copy_row(from + u64(blockIdx.x) * width, to + u64(rows[blockIdx.x]) * width, width);
}

extern "C" __global__ __launch_bounds__(256) void round_to_bf16(const float* from, bf16* to, u64 len) {
    u64 first = (u64(blockIdx.x) * 256 + threadIdx.x) * 8;
    if (first + 8 <= len) {
        float x[8];
        load(from + first, x);
        store(to + first, x);
    } else {
        for (u64 i = first; i < len; ++i) {
            to[i] = from_float<bf16>(from[i]);
        }
    }
}

extern "C" __global__ __launch_bounds__(256) void round_stochastically(const float* from, bf16* to, u64 len, u32 key) {
    u64 first = (u64(blockIdx.x) * 256 + threadIdx.x) * 8;
    if (first + 8 <= len) {
        float x[8];
        load(from + first, x);
        store_by(to + first, x, key, first, 0);
    } else {
        for (u64 i = first; i < len; ++i) {
            to[i] = round_by(from[i], random_bits(key, i));
        }
    }
}
