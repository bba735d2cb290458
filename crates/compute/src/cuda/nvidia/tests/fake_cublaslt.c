// A cuBLASLt that multiplies column-major matrices as the manual defines them, one element at a time.
#include "fake.h"

size_t fake_version = 120800;
int fake_alive = 0;          // handles, descriptors, layouts, preferences
int fake_epilogues = 1;      // whether there are epilogues that add a bias
int fake_row_sums = 1;       // whether there is one that sums
int fake_candidates = 3;     // algorithms that are proposed
float fake_times[8] = {3, 2, 1, 4, 5, 6, 7, 8}; // milliseconds of each
uint64_t fake_refused = 0;   // columns of a result for which the third algorithm will not do
int fake_heuristics = 0;     // how often it was asked
int fake_runs[8];            // how often each ran
uint64_t fake_last_workspace = 0;

enum { F32 = 0, BF16 = 14, E4M3 = 28, E5M2 = 29, COMPUTE_32F = 68, COMPUTE_TF32 = 77, BIAS = 4, BGRADB = 512 };

struct operation { int compute, scale, transpose_a, transpose_b, epilogue, bias_type; uint64_t bias, scale_a, scale_b; };
struct layout { int type; uint64_t rows, columns; int64_t stride; };
struct preference { uint64_t workspace; uint32_t reduction, alignment[4]; };
struct algorithm { uint64_t data[8]; };
struct proposal { struct algorithm algorithm; size_t workspace; unsigned status; float waves; int reserved[4]; };

size_t cublasLtGetVersion(void) { return fake_version; }
int cublasLtCreate(void** handle) { return fake_alive++, *handle = &fake_alive, 0; }
int cublasLtDestroy(void* handle) { return fake_alive--, handle == &fake_alive ? 0 : 1; }
int cublasLtMatmulDescCreate(struct operation** d, int compute, int scale) {
    fake_alive++;
    *d = calloc(1, sizeof **d);
    (*d)->compute = compute, (*d)->scale = scale, (*d)->epilogue = 1, (*d)->bias_type = -1;
    return 0;
}
int cublasLtMatmulDescDestroy(struct operation* d) { return fake_alive--, free(d), 0; }
int cublasLtMatmulDescSetAttribute(struct operation* d, int attribute, const void* value, size_t bytes) {
    if (bytes != (attribute == 8 || attribute == 17 || attribute == 18 ? 8 : 4)) return 7;
    switch (attribute) {
        case 3: memcpy(&d->transpose_a, value, 4); return 0;
        case 4: memcpy(&d->transpose_b, value, 4); return 0;
        case 7: memcpy(&d->epilogue, value, 4); return 0;
        case 8: memcpy(&d->bias, value, 8); return 0;
        case 17: memcpy(&d->scale_a, value, 8); return 0;
        case 18: memcpy(&d->scale_b, value, 8); return 0;
        case 26: memcpy(&d->bias_type, value, 4); return 0;
        default: return 7;
    }
}
int cublasLtMatrixLayoutCreate(struct layout** l, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    // A column must fit its stride.
    if ((uint64_t)stride < rows || (type != F32 && type != BF16 && type != E4M3 && type != E5M2)) return 7;
    fake_alive++;
    *l = malloc(sizeof **l);
    **l = (struct layout){type, rows, columns, stride};
    return 0;
}
int cublasLtMatrixLayoutDestroy(struct layout* l) { return fake_alive--, free(l), 0; }
int cublasLtMatmulPreferenceCreate(struct preference** p) { return fake_alive++, *p = calloc(1, sizeof **p), 0; }
int cublasLtMatmulPreferenceDestroy(struct preference* p) { return fake_alive--, free(p), 0; }
int cublasLtMatmulPreferenceSetAttribute(struct preference* p, int attribute, const void* value, size_t bytes) {
    if (bytes != (attribute == 1 ? 8 : 4)) return 7;
    switch (attribute) {
        case 1: memcpy(&p->workspace, value, 8); return 0;
        case 3: memcpy(&p->reduction, value, 4); return 0;
        case 5: case 6: case 7: case 8: memcpy(&p->alignment[attribute - 5], value, 4); return 0;
        default: return 7;
    }
}

static int dimensions(const struct operation* d, const struct layout* a, const struct layout* b, const struct layout* c,
                      uint64_t* m, uint64_t* n, uint64_t* k) {
    *m = d->transpose_a ? a->columns : a->rows;
    *k = d->transpose_a ? a->rows : a->columns;
    *n = d->transpose_b ? b->rows : b->columns;
    return (d->transpose_b ? b->columns : b->rows) == *k && c->rows == *m && c->columns == *n;
}
static int supported(const struct operation* d, const struct layout* a, const struct layout* b, const struct layout* c) {
    uint64_t m, n, k;
    if (d->scale != F32 || !dimensions(d, a, b, c, &m, &n, &k)) return 7;
    if (a->type == E4M3 || a->type == E5M2) {
        // The first transposed, the second not; whole pieces of 16 bytes; scales; not E5M2 twice.
        if (!d->transpose_a || d->transpose_b || a->stride % 16 || b->stride % 16 || m % 16 || k % 16) return 15;
        if ((b->type != E4M3 && b->type != E5M2) || (a->type == E5M2 && b->type == E5M2)) return 15;
        if (!d->scale_a || !d->scale_b || d->compute != COMPUTE_32F) return 7;
        // Any result takes its bias in bf16, and no sums are left.
        if (d->epilogue == 1) return 0;
        return d->epilogue == BIAS && fake_epilogues && d->bias && d->bias_type == BF16 ? 0 : 15;
    }
    if (a->type != b->type || d->scale_a || d->scale_b) return 7;
    if (d->compute != COMPUTE_32F && !(d->compute == COMPUTE_TF32 && a->type == F32)) return 15;
    if (d->epilogue == 1) return 0;
    if (d->epilogue == BGRADB) return fake_row_sums && d->bias && d->bias_type == F32 && c->type == F32 ? 0 : 15;
    if (d->epilogue != BIAS || !fake_epilogues || !d->bias) return 15;
    return d->bias_type == c->type ? 0 : 15;
}
int cublasLtMatmulAlgoGetHeuristic(void* handle, const struct operation* d, const struct layout* a, const struct layout* b,
                                   const struct layout* c, const struct layout* to, const struct preference* p, int asked,
                                   struct proposal* proposals, int* count) {
    (void)handle; (void)to;
    fake_heuristics++;
    // The reduction scheme in f32, the alignments that the addresses have.
    if (p->reduction != 2 || !p->alignment[0] || !p->alignment[1] || !p->alignment[2] || p->alignment[2] != p->alignment[3]) return 7;
    fake_last_workspace = p->workspace;
    int status = supported(d, a, b, c);
    if (status) return status;
    *count = 0;
    for (int i = 0; i < fake_candidates && *count < asked; i++) {
        if (i == 2 && c->columns == fake_refused) continue;
        proposals[(*count)++] = (struct proposal){.algorithm = {{i, 7777}}, .workspace = 1 << 20};
    }
    return *count ? 0 : 15;
}
int cublasLtMatmulAlgoCheck(void* handle, const struct operation* d, const struct layout* a, const struct layout* b,
                            const struct layout* c, const struct layout* to, const struct algorithm* algorithm, struct proposal* out) {
    (void)handle; (void)to;
    if (algorithm->data[1] != 7777 || algorithm->data[0] >= 8) return 7;
    if (algorithm->data[0] == 2 && c->columns == fake_refused) return 15;
    *out = (struct proposal){.algorithm = *algorithm, .workspace = 1 << 20};
    return supported(d, a, b, c);
}

struct product {
    struct operation d;
    struct layout a, b, c;
    const void *pa, *pb, *pc;
    void* to;
    float alpha, beta;
    double milliseconds;
    struct stream* stream;
};
static float code(uint8_t bits, int mantissa_bits) {
    int exponent = (bits & 0x7f) >> mantissa_bits, bias = mantissa_bits == 3 ? 7 : 15;
    float value = (bits & ((1 << mantissa_bits) - 1)) / (float)(1 << mantissa_bits) + (exponent != 0);
    for (int power = (exponent ? exponent : 1) - bias; power != 0; power += power < 0 ? 1 : -1) value *= power < 0 ? 0.5f : 2.0f;
    return bits & 0x80 ? -value : value;
}
static float element(const void* matrix, int type, uint64_t at) {
    if (type == E4M3 || type == E5M2) return code(((const uint8_t*)matrix)[at], type == E4M3 ? 3 : 2);
    return type == F32 ? ((const float*)matrix)[at] : widened(((const uint16_t*)matrix)[at]);
}
static void multiply(void* data) {
    struct product* p = data;
    uint64_t m, n, k;
    dimensions(&p->d, &p->a, &p->b, &p->c, &m, &n, &k);
    if (p->d.scale_a) p->alpha *= *(float*)(uintptr_t)p->d.scale_a * *(float*)(uintptr_t)p->d.scale_b;
    for (uint64_t column = 0; column < n && p->d.epilogue == BGRADB; column++) {
        float sum = 0;
        for (uint64_t i = 0; i < k; i++) {
            sum += element(p->pb, p->b.type, p->d.transpose_b ? column + i * p->b.stride : i + column * p->b.stride);
        }
        ((float*)(uintptr_t)p->d.bias)[column] = sum;
    }
    for (uint64_t column = 0; column < n; column++) {
        for (uint64_t row = 0; row < m; row++) {
            float sum = 0;
            for (uint64_t i = 0; i < k; i++) {
                uint64_t at_a = p->d.transpose_a ? i + row * p->a.stride : row + i * p->a.stride;
                uint64_t at_b = p->d.transpose_b ? column + i * p->b.stride : i + column * p->b.stride;
                sum += element(p->pa, p->a.type, at_a) * element(p->pb, p->b.type, at_b);
            }
            uint64_t at = row + column * p->c.stride;
            float value = p->alpha * sum;
            if (p->beta != 0) value += p->beta * element(p->pc, p->c.type, at);
            if (p->d.epilogue == BIAS) value += element((void*)(uintptr_t)p->d.bias, p->d.bias_type, row);
            if (p->c.type == F32) ((float*)p->to)[at] = value;
            else ((uint16_t*)p->to)[at] = rounded(value);
        }
    }
    p->stream->clock += p->milliseconds;
}
int cublasLtMatmul(void* handle, const struct operation* d, const float* alpha, const void* pa, const struct layout* a,
                   const void* pb, const struct layout* b, const float* beta, const void* pc, const struct layout* c,
                   void* to, const struct layout* to_layout, const struct algorithm* algorithm, void* workspace,
                   size_t workspace_bytes, struct stream* stream) {
    (void)handle;
    if (to_layout != c || !workspace || workspace_bytes < 1 << 20 || algorithm->data[1] != 7777) return 7;
    int status = supported(d, a, b, c);
    if (status) return status;
    struct product p = {*d, *a, *b, *c, pa, pb, pc, to, *alpha, *beta, fake_times[algorithm->data[0]], stream};
    fake_runs[algorithm->data[0]]++;
    stream->enqueue(stream, multiply, &p, sizeof p);
    return 0;
}
