// Every line of PTX that the kernels use. The simulator replaces this file by its own functions of the same names
// (simulator/ptx.cu), so that a kernel which touches the hardware only through them runs on both. Each of them is checked
// on its own by probe.cu. All need sm_80; what sm_89 has besides is done in other ways below it.

// An address of shared memory as PTX's .shared instructions take it.
DEVICE u32 shared_address(const void* at) {
    return static_cast<u32>(__cvta_generic_to_shared(at));
}

// d += a b for a tile of 16 x 16 by 16 x 8 of bf16, by the whole warp. With group = lane / 4 and place = lane % 4, and two
// neighbours of k in each register (PTX ISA, "Matrix Fragments for mma.m16n8k16"):
//   a[0] row group, k 2 place; a[1] row group + 8; a[2] row group, k 2 place + 8; a[3] row group + 8, k 2 place + 8
//   b[0] column group, k 2 place; b[1] k 2 place + 8
//   d[0], d[1] row group, columns 2 place and 2 place + 1; d[2], d[3] row group + 8
DEVICE void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Loads 8 x 8 matrices of 16-bit elements from shared memory, one register each, by the whole warp. Lanes 8 i to 8 i + 7
// give the addresses (16-byte aligned) of the rows of matrix i; lane l gets elements 2 (l % 4) and 2 (l % 4) + 1 of row
// l / 4, or of column l / 4 with _transposed.
DEVICE void ldmatrix_x1(u32& r, const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];\n" : "=r"(r) : "r"(shared_address(row)) : "memory");
}
DEVICE void ldmatrix_x1_transposed(u32& r, const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];\n"
                 : "=r"(r)
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void ldmatrix_x2(u32 (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];\n"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void ldmatrix_x2_transposed(u32 (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];\n"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void ldmatrix_x4(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void ldmatrix_x4_transposed(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Starts a copy of 16 bytes from global to shared memory, or of zeros, in which case nothing is read. Both addresses must
// be aligned to 16. The bytes are there for this thread after a wait, for the others after a barrier behind it.
DEVICE void copy_async_16(void* to, const void* from, bool read) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)), "l"(from), "r"(read ? 16 : 0)
                 : "memory");
}
// Closes this thread's group of copies.
DEVICE void copy_async_commit() {
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}
// Waits until at most PENDING of this thread's youngest groups are on their way.
template <u32 PENDING>
DEVICE void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(PENDING) : "memory");
}

// Two bf16 in a register, rounded to nearest even; `low` in the lower half, which lies first in memory.
DEVICE u32 pack_bf16(float low, float high) {
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

// Two 8-bit floats in the lower half of a register, rounded to nearest even, saturating, `low` in the lowest byte: E4M3 and
// E5M2.
DEVICE u32 pack_e4m3(float low, float high) {
#if __CUDA_ARCH__ >= 890
    u16 r;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;\n" : "=h"(r) : "f"(high), "f"(low));
    return r;
#else
    return fp8_code<3>(low) | fp8_code<3>(high) << 8;
#endif
}
DEVICE u32 pack_e5m2(float low, float high) {
#if __CUDA_ARCH__ >= 890
    u16 r;
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;\n" : "=h"(r) : "f"(high), "f"(low));
    return r;
#else
    return fp8_code<2>(low) | fp8_code<2>(high) << 8;
#endif
}

// 2^x to about 2 units in the last place; 0 for -inf; results below 2^-126 become 0.
DEVICE float exp2_approximate(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

// ---- Products by a warpgroup, four warps from a multiple of four on: sm_90a alone ----
//
// Asynchronous: between the start of a product and a wait that covers it, no one may touch its sums, its left operand's
// registers or its right operand's memory. The caller fences before the first product after registers were written, and
// holds the sums behind the wait, so that the compiler reads none of them before it.

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define WARPGROUPS 1

// An operand of a product in shared memory: 16 rows or columns of a tile of rows of 64 bf16, whose chunks of 16 bytes lie as tile.cu
// says, from `at` on. That is the layout of 128-byte swizzle, 8 rows in 1024 bytes, in memory aligned to as much (PTX ISA,
// "Matrix Descriptor"). That distance is the stride; the leading offset is not used for rows, and for columns would lead to
// the next 64, which there are not. One more is 16 bytes on.
template <u32 SUMMED>
DEVICE u64 warpgroup_operand(const void* at) {
    u64 address = (shared_address(at) & 0x3ffffu) >> 4;
    return address | (SUMMED ? 64ull : 1ull) << 16 | 64ull << 32 | 1ull << 62;
}

// d = a b, or d += a b, for 64 x 16 by 16 x 64 of bf16: of each warp's 16 rows d and a are as for mma_m16n8k16, blocks of
// 8 columns one behind the other. b: 64 rows of a tile, 16 elements of each (a bᵀ), or with SUMMED 16 rows of 64 elements.
template <u32 SUMMED>
DEVICE void warpgroup_mma(float (&d)[8][4], const u32 (&a)[4], u64 b, u32 add) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "{%32, %33, %34, %35}, %36, p, 1, 1, %38;\n"
        "}\n"
        : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]),
          "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]),
          "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),
          "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]),
          "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]),
          "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),
          "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]),
          "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(SUMMED));
}
// The same with the left operand in shared memory: the warpgroup's 64 rows of a tile, 16 elements of each; b 64 rows.
DEVICE void warpgroup_mma_shared(float (&d)[8][4], u64 a, u64 b, u32 add) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "%32, %33, p, 1, 1, 0, 0;\n"
        "}\n"
        : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]),
          "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]),
          "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),
          "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]),
          "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]),
          "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),
          "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]),
          "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3])
        : "l"(a), "l"(b), "r"(add));
}
DEVICE void warpgroup_fence() {
    asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
// Closes the group of products that were started since the last.
DEVICE void warpgroup_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
// Waits until at most PENDING of the youngest groups are at work.
template <u32 PENDING>
DEVICE void warpgroup_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(PENDING) : "memory");
}
// What is read of d behind it is read behind it.
template <u32 N>
DEVICE void warpgroup_hold(float (&d)[N][4]) {
#pragma unroll
    for (u32 n = 0; n < N; ++n) {
        asm volatile("" : "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])::"memory");
    }
}
// Makes what this thread wrote to shared memory, or its copies that have been waited for, visible to products behind the
// next barrier.
DEVICE void warpgroup_publish() {
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}
#endif
