// What the fake libraries agree on. They stand for libcuda, NVRTC, cuBLASLt and cuDNN in tests of the host's code, and do
// what the manuals say as far as the host can tell: work on a stream happens later, in order, and only when something
// waits for it; device memory starts as garbage; time passes as the fake decides.
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>

// A piece of work: a function and a copy of its data.
typedef void (*work)(void* data);

// A stream, which the fakes of cuBLASLt and cuDNN get a pointer to.
struct stream {
    void (*enqueue)(struct stream* stream, work run, const void* data, size_t bytes);
    // Milliseconds that finished work took.
    double clock;
};

static inline float widened(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}

static inline uint16_t rounded(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
