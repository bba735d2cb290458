// Random bits as a function of a key and an element's index, and what is decided by them: dropout, and rounding that keeps
// the mean. The same bits as on every other device (stochastic.rs).

// 32 random bits (Wellons, "lowbias32").
DEVICE u32 random_bits(u32 key, u64 index) {
    u32 h = (u32)index ^ key;
    h = (h ^ (h >> 16)) * 0x7feb352du;
    h = (h ^ (h >> 15)) * 0x846ca68bu;
    return h ^ (h >> 16);
}

// The key for rounding a tensor's weights, where `key` is that of its moments.
DEVICE u32 weights_key(u32 key) {
    return random_bits(key, 0x5bd1e995u);
}

// Rounds by the lower 16 random bits; a NaN stays a NaN.
DEVICE bf16 round_by(float x, u32 random) {
    u32 bits = __float_as_uint(x);
    u32 rounded = (bits + (random & 0xffffu)) >> 16;
    bf16 y;
    y.bits = static_cast<u16>((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
    return y;
}

// to[0 .. N] = x, elements `index` on, rounded by the random bits >> shift.
template <u32 N>
DEVICE void store_by(bf16* to, const float (&x)[N], u32 key, u64 index, u32 shift) {
    float rounded[N];
    for (u32 j = 0; j < N; ++j) {
        rounded[j] = to_float(round_by(x[j], random_bits(key, index + j) >> shift));
    }
    store(to, rounded);
}
