// The simulator's versions of the functions of kernels/ptx.cu; what each of them does is said there.

DEVICE float simulator_low(u32 pair) {
    return __uint_as_float(pair << 16);
}
DEVICE float simulator_high(u32 pair) {
    return __uint_as_float(pair & 0xffff0000u);
}

DEVICE void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    u32* mine = reinterpret_cast<u32*>(&simulator::mine());
    for (u32 i = 0; i < 4; ++i) {
        mine[i] = a[i];
    }
    mine[4] = b0;
    mine[5] = b1;
    simulator::meet(simulator::MMA, ALL_LANES);
    u32 group = simulator::lane() / 4, place = simulator::lane() % 4;
    for (u32 column = 0; column < 2; ++column) {
        const u32* b[4];
        for (u32 q = 0; q < 4; ++q) {
            b[q] = reinterpret_cast<const u32*>(&simulator::theirs((2 * place + column) * 4 + q)) + 4;
        }
        for (u32 row = 0; row < 2; ++row) {
            float sum = 0.0f;
            for (u32 q = 0; q < 4; ++q) {
                const u32* x = reinterpret_cast<const u32*>(&simulator::theirs(group * 4 + q)) + row;
                sum += simulator_low(x[0]) * simulator_low(b[q][0]) + simulator_high(x[0]) * simulator_high(b[q][0]);
                sum += simulator_low(x[2]) * simulator_low(b[q][1]) + simulator_high(x[2]) * simulator_high(b[q][1]);
            }
            d[2 * row + column] += sum;
        }
    }
}

// Each lane reads its row on arrival: a write that is not ordered before it by a barrier may come too late, and none that
// follows the instruction too early.
template <u32 COUNT, bool TRANSPOSED>
DEVICE void simulator_ldmatrix(u32* r, const void* row) {
    if (simulator::lane() < 8 * COUNT) {
        if ((reinterpret_cast<u64>(row) & 15u) != 0) {
            simulator::fail("ldmatrix of a row at a misaligned address");
        }
        memcpy(&simulator::mine(), row, 16);
    }
    simulator::meet(simulator::LDMATRIX, ALL_LANES);
    u32 outer = simulator::lane() / 4, inner = simulator::lane() % 4 * 2;
    for (u32 matrix = 0; matrix < COUNT; ++matrix) {
        u32 pair[2];
        for (u32 i = 0; i < 2; ++i) {
            u32 y = TRANSPOSED ? inner + i : outer, x = TRANSPOSED ? outer : inner + i;
            pair[i] = reinterpret_cast<const u16*>(&simulator::theirs(matrix * 8 + y))[x];
        }
        r[matrix] = pair[0] | pair[1] << 16;
    }
}
DEVICE void ldmatrix_x1(u32& r, const void* row) {
    simulator_ldmatrix<1, false>(&r, row);
}
DEVICE void ldmatrix_x1_transposed(u32& r, const void* row) {
    simulator_ldmatrix<1, true>(&r, row);
}
DEVICE void ldmatrix_x2(u32 (&r)[2], const void* row) {
    simulator_ldmatrix<2, false>(r, row);
}
DEVICE void ldmatrix_x2_transposed(u32 (&r)[2], const void* row) {
    simulator_ldmatrix<2, true>(r, row);
}
DEVICE void ldmatrix_x4(u32 (&r)[4], const void* row) {
    simulator_ldmatrix<4, false>(r, row);
}
DEVICE void ldmatrix_x4_transposed(u32 (&r)[4], const void* row) {
    simulator_ldmatrix<4, true>(r, row);
}

DEVICE void copy_async_16(void* to, const void* from, bool read) {
    simulator::copy_async(to, from, read);
}
DEVICE void copy_async_commit() {
    simulator::commit_copies();
}
template <u32 PENDING>
DEVICE void copy_async_wait() {
    simulator::wait_for_copies(PENDING);
}

DEVICE u32 pack_bf16(float low, float high) {
    return from_float<bf16>(low).bits | static_cast<u32>(from_float<bf16>(high).bits) << 16;
}

DEVICE u32 pack_e4m3(float low, float high) {
    return fp8_code<3>(low) | fp8_code<3>(high) << 8;
}
DEVICE u32 pack_e5m2(float low, float high) {
    return fp8_code<2>(low) | fp8_code<2>(high) << 8;
}

DEVICE float exp2_approximate(float x) {
    return x < -126.0f ? 0.0f : exp2f(x);
}

// Products by a warpgroup, for texts that begin by defining WARPGROUPS. On a GPU they may happen at any moment from their start
// to the wait: here all at once, or all as late as may be.
template <u32 SUMMED>
DEVICE u64 warpgroup_operand(const void* at) {
    return (static_cast<const char*>(at) - (simulator::launch->shared_end - simulator::launch->shared_bytes)) / 16;
}
// The pair of neighbours at this distance from an operand, where the 128-byte swizzle puts it.
static const u16* simulator_swizzled(u64 operand, u32 bytes) {
    char* shared = simulator::launch->shared_end - simulator::launch->shared_bytes;
    u64 at = operand * 16 + bytes;
    return reinterpret_cast<const u16*>(shared + (at ^ (at >> 7 & 7) << 4));
}
struct SimulatorProduct {
    float (*d)[4];
    u32 a[4];
    u64 left;  // where in_registers does not say that a holds it
    u64 b;
    u32 add, summed, in_registers, group;
};
static const u32 SIMULATOR_PRODUCTS = 64;
static SimulatorProduct simulator_products[simulator::MOST_THREADS][SIMULATOR_PRODUCTS];
static void simulator_multiply(const SimulatorProduct& product) {
    u32 group = simulator::lane() / 4, place = simulator::lane() % 4;
    u32 a[4];
    for (u32 i = 0; i < 4; ++i) {
        u32 row = simulator::current->linear / WARP % 4 * 16 + i % 2 * 8 + group, k = 2 * place + i / 2 * 8;
        const u16* pair = simulator_swizzled(product.left, row * 128 + k * 2);
        a[i] = product.in_registers ? product.a[i] : pair[0] | static_cast<u32>(pair[1]) << 16;
    }
    for (u32 n = 0; n < 8; ++n) {
        u32 b[2], column = n * 8 + group;
        for (u32 half = 0; half < 2; ++half) {
            u32 k = 2 * place + 8 * half;
            u16 pair[2];
            for (u32 i = 0; i < 2; ++i) {
                // Rows are 128 bytes apart.
                u32 bytes = product.summed ? (k + i) * 128 + column * 2 : column * 128 + (k + i) * 2;
                pair[i] = *simulator_swizzled(product.b, bytes);
            }
            b[half] = pair[0] | static_cast<u32>(pair[1]) << 16;
        }
        if (!product.add) {
            for (u32 i = 0; i < 4; ++i) {
                product.d[n][i] = 0.0f;
            }
        }
        mma_m16n8k16(*reinterpret_cast<float(*)[4]>(product.d[n]), a, b[0], b[1]);
    }
}
static void simulator_start(SimulatorProduct product) {
    simulator::Fiber& fiber = *simulator::current;
    product.group = fiber.product_groups;
    if (simulator::may_land_early) {
        simulator_multiply(product);
        return;
    }
    if (fiber.products == SIMULATOR_PRODUCTS) {
        simulator::fail("more products at once than the simulator keeps");
    }
    simulator_products[fiber.linear][fiber.products++] = product;
}
template <u32 SUMMED>
DEVICE void warpgroup_mma(float (&d)[8][4], const u32 (&a)[4], u64 b, u32 add) {
    simulator_start({d, {a[0], a[1], a[2], a[3]}, b, b, add, SUMMED, 1, 0});
}
DEVICE void warpgroup_mma_shared(float (&d)[8][4], u64 a, u64 b, u32 add) {
    simulator_start({d, {}, a, b, add, 0, 0, 0});
}
DEVICE void warpgroup_fence() {}
DEVICE void warpgroup_commit() {
    ++simulator::current->product_groups;
}
template <u32 PENDING>
DEVICE void warpgroup_wait() {
    simulator::Fiber& fiber = *simulator::current;
    SimulatorProduct(&products)[SIMULATOR_PRODUCTS] = simulator_products[fiber.linear];
    u32 done = 0;
    while (done < fiber.products && products[done].group + PENDING < fiber.product_groups) {
        simulator_multiply(products[done++]);
    }
    for (u32 i = done; i < fiber.products; ++i) {
        products[i - done] = products[i];
    }
    fiber.products -= done;
}
template <u32 N>
DEVICE void warpgroup_hold(float (&)[N][4]) {}
DEVICE void warpgroup_publish() {}
