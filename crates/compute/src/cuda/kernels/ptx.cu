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
