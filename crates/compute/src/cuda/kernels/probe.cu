// Every function of ptx.cu, and the shuffles, votes and reductions that the kernels use, each on its own. One block
// each. The host side with the expected values is cuda/probe.rs: what a GPU is asked first, and the simulator too.

// d[16, 8] += a[16, 16] b[16, 8], row-major, each lane loading its fragments as the comment on mma_m16n8k16 says.
extern "C" __global__ __launch_bounds__(32) void probe_mma(const u16* a, const u16* b, float* d) {
    u32 group = threadIdx.x / 4, place = threadIdx.x % 4;
    u32 fragment[4], column[2];
    for (u32 i = 0; i < 4; ++i) {
        u32 row = group + i % 2 * 8, k = 2 * place + i / 2 * 8;
        fragment[i] = a[row * 16 + k] | static_cast<u32>(a[row * 16 + k + 1]) << 16;
    }
    for (u32 i = 0; i < 2; ++i) {
        u32 k = 2 * place + i * 8;
        column[i] = b[k * 8 + group] | static_cast<u32>(b[(k + 1) * 8 + group]) << 16;
    }
    float sums[4];
    for (u32 i = 0; i < 4; ++i) {
        sums[i] = d[(group + i / 2 * 8) * 8 + 2 * place + i % 2];
    }
    mma_m16n8k16(sums, fragment, column[0], column[1]);
    for (u32 i = 0; i < 4; ++i) {
        d[(group + i / 2 * 8) * 8 + 2 * place + i % 2] = sums[i];
    }
}

// d[0] = a bᵀ, d[1] += a b, and d[2] = a bᵀ with a from shared memory, for matrices of 64 x 64, row-major, by a warpgroup
// where there are such products; else one by one, for there is nothing to ask then.
extern "C" __global__ __launch_bounds__(128) void probe_warpgroup(const u16* a, const u16* b, float* d) {
    SHARED_MEMORY(u16, tile);
    for (u32 i = threadIdx.x; i < 64 * 64; i += 128) {
        u32 row = i / 64, column = i % 64;
        u32 at = row * 64 + (column / 8 ^ row % 8) * 8 + column % 8;
        tile[at] = b[i];
        tile[64 * 64 + at] = a[i];
    }
#ifdef WARPGROUPS
    warpgroup_publish();
#endif
    __syncthreads();
#ifdef WARPGROUPS
    u32 row = threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4, place = threadIdx.x % 4;
    u32 left[4][4];
    float sums[3][8][4];
    for (u32 step = 0; step < 4; ++step) {
        for (u32 i = 0; i < 4; ++i) {
            const u16* pair = a + (row + i % 2 * 8) * 64 + step * 16 + i / 2 * 8 + 2 * place;
            left[step][i] = pair[0] | static_cast<u32>(pair[1]) << 16;
        }
    }
    for (u32 n = 0; n < 8; ++n) {
        for (u32 i = 0; i < 4; ++i) {
            sums[1][n][i] = d[64 * 64 + (row + i / 2 * 8) * 64 + n * 8 + 2 * place + i % 2];
        }
    }
    u64 columns = warpgroup_operand<0>(tile), rows = warpgroup_operand<1>(tile), own = warpgroup_operand<0>(tile + 64 * 64);
    warpgroup_fence();
    for (u32 step = 0; step < 4; ++step) {
        warpgroup_mma<0>(sums[0], left[step], columns + step * 2, step > 0);
    }
    warpgroup_commit();
    for (u32 step = 0; step < 4; ++step) {
        warpgroup_mma<1>(sums[1], left[step], rows + step * 128, 1);
    }
    warpgroup_commit();
    for (u32 step = 0; step < 4; ++step) {
        warpgroup_mma_shared(sums[2], own + step * 2, columns + step * 2, step > 0);
    }
    warpgroup_commit();
    warpgroup_wait<0>();
    for (u32 product = 0; product < 3; ++product) {
        warpgroup_hold(sums[product]);
        for (u32 n = 0; n < 8; ++n) {
            for (u32 i = 0; i < 4; ++i) {
                d[product * 64 * 64 + (row + i / 2 * 8) * 64 + n * 8 + 2 * place + i % 2] = sums[product][n][i];
            }
        }
    }
#else
    for (u32 i = threadIdx.x; i < 3 * 64 * 64; i += 128) {
        u32 product = i / (64 * 64), row = i / 64 % 64, column = i % 64;
        float sum = product == 1 ? d[i] : 0.0f;
        for (u32 k = 0; k < 64; ++k) {
            u32 r = product == 1 ? k : column, c = product == 1 ? column : k;
            bf16 x, y;
            x.bits = tile[64 * 64 + row * 64 + (k / 8 ^ row % 8) * 8 + k % 8];
            y.bits = tile[r * 64 + (c / 8 ^ r % 8) * 8 + c % 8];
            sum += to_float(x) * to_float(y);
        }
        d[i] = sum;
    }
#endif
}

// Four 8 x 8 matrices of u16; out[14][32]: the registers of x1, x2, x4, then of the transposed three.
extern "C" __global__ __launch_bounds__(32) void probe_ldmatrix(const u16* matrices, u32* out) {
    SHARED_MEMORY(u16, tile);
    u32 lane = threadIdx.x;
    for (u32 i = lane; i < 256; i += WARP) {
        tile[i] = matrices[i];
    }
    __syncthreads();
    u32 one, two[2], four[4];
    const u16* row = tile + lane * 8;
    // Lanes whose address is not used may hold any.
    ldmatrix_x1(one, lane < 8 ? row : tile);
    ldmatrix_x2(two, lane < 16 ? row : tile);
    ldmatrix_x4(four, row);
    out[lane] = one;
    for (u32 i = 0; i < 2; ++i) {
        out[(1 + i) * WARP + lane] = two[i];
    }
    for (u32 i = 0; i < 4; ++i) {
        out[(3 + i) * WARP + lane] = four[i];
    }
    ldmatrix_x1_transposed(one, lane < 8 ? row : tile);
    ldmatrix_x2_transposed(two, lane < 16 ? row : tile);
    ldmatrix_x4_transposed(four, row);
    out[7 * WARP + lane] = one;
    for (u32 i = 0; i < 2; ++i) {
        out[(8 + i) * WARP + lane] = two[i];
    }
    for (u32 i = 0; i < 4; ++i) {
        out[(10 + i) * WARP + lane] = four[i];
    }
}

// out[t] = sum over tiles of (tile + 1) * (the 4 floats of thread t's neighbour), where tiles of 64 * 4 floats come through
// a pipeline of three stages and threads whose number divides by 5 copy zeros instead.
extern "C" __global__ __launch_bounds__(64) void probe_copy_async(const float* in, float* out, u32 tiles) {
    SHARED_MEMORY(float, stages);
    u32 t = threadIdx.x, neighbour = (t + 1) % 64;
    bool read = t % 5 != 0;
    for (u32 tile = 0; tile < 2; ++tile) {
        if (tile < tiles) {
            copy_async_16(stages + (tile * 64 + t) * 4, in + (tile * 64 + t) * 4, read);
        }
        copy_async_commit();
    }
    float sum = 0.0f;
    for (u32 tile = 0; tile < tiles; ++tile) {
        copy_async_wait<1>();
        __syncthreads();
        u32 next = tile + 2;
        if (next < tiles) {
            copy_async_16(stages + (next % 3 * 64 + t) * 4, in + (next * 64 + t) * 4, read);
        }
        copy_async_commit();
        const float* quad = stages + (tile % 3 * 64 + neighbour) * 4;
        sum += (tile + 1) * (quad[0] + quad[1] + quad[2] + quad[3]);
    }
    out[t] = sum;
}

// packed[i] = pack_bf16(x[2 i], x[2 i + 1]); rounded[i] = from_float<bf16>(x[i]); power[i] = exp2_approximate(x[i]).
extern "C" __global__ __launch_bounds__(128) void probe_arithmetic(const float* x, u32* packed, u16* rounded, float* power, u32 n) {
    for (u32 i = threadIdx.x; i < n; i += 128) {
        rounded[i] = from_float<bf16>(x[i]).bits;
        power[i] = exp2_approximate(x[i]);
        if (2 * i + 1 < n) {
            packed[i] = pack_bf16(x[2 * i], x[2 * i + 1]);
        }
    }
}

// Codes of x, two at a time: n is even.
extern "C" __global__ __launch_bounds__(128) void probe_fp8(const float* x, u16* e4m3, u16* e5m2, u32 n) {
    for (u32 i = threadIdx.x; 2 * i < n; i += 128) {
        e4m3[i] = static_cast<u16>(pack_e4m3(x[2 * i], x[2 * i + 1]));
        e5m2[i] = static_cast<u16>(pack_e5m2(x[2 * i], x[2 * i + 1]));
    }
}

// out[7][96] of in[96]: value of lane 5, of lane ^ 6, of lane - 3, of lane + 3, which lanes are negative, sum, maximum of the
// block.
extern "C" __global__ __launch_bounds__(96) void probe_warp(const float* in, float* out) {
    SHARED_MEMORY(float, scratch);
    u32 t = threadIdx.x;
    float x = in[t];
    out[t] = __shfl_sync(ALL_LANES, x, 5);
    out[96 + t] = __shfl_xor_sync(ALL_LANES, x, 6);
    out[2 * 96 + t] = __shfl_up_sync(ALL_LANES, x, 3);
    out[3 * 96 + t] = __shfl_down_sync(ALL_LANES, x, 3);
    u32 negative = __ballot_sync(ALL_LANES, x < 0.0f);
    out[4 * 96 + t] = __popc(negative) + (__any_sync(ALL_LANES, x < 0.0f) ? 100.0f : 0.0f) +
                      (__all_sync(ALL_LANES, x < 0.0f) ? 1000.0f : 0.0f);
    out[5 * 96 + t] = block_sum<96>(x, scratch);
    out[6 * 96 + t] = block_max<96>(x, scratch);
}

// out[32, 32] = transpose of in, `rounds` times forth and back and once more, through shared memory.
extern "C" __global__ __launch_bounds__(256) void probe_transpose(const float* in, float* out, u32 rounds) {
    SHARED_MEMORY(float, tile);
    u32 column = threadIdx.x % 32, top = threadIdx.x / 32;
    float mine[4];
    for (u32 i = 0; i < 4; ++i) {
        mine[i] = in[(top + 8 * i) * 32 + column];
    }
    for (u32 round = 0; round < 2 * rounds + 1; ++round) {
        for (u32 i = 0; i < 4; ++i) {
            tile[column * 33 + top + 8 * i] = mine[i];
        }
        __syncthreads();
        for (u32 i = 0; i < 4; ++i) {
            mine[i] = tile[(top + 8 * i) * 33 + column];
        }
        __syncthreads();
    }
    for (u32 i = 0; i < 4; ++i) {
        out[(top + 8 * i) * 32 + column] = mine[i];
    }
}

// out[256] = in[256] reversed within each warp, through shared memory and a warp barrier alone.
extern "C" __global__ __launch_bounds__(256) void probe_syncwarp(const float* in, float* out) {
    SHARED_MEMORY(float, values);
    u32 t = threadIdx.x;
    values[t] = in[t];
    __syncwarp();
    out[t] = values[t ^ 31u];
}
