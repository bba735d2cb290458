// AdamW's moments in 8 bits (moments.rs has the formats and why): blocks of 128 elements, four codes a word, then the
// blocks' steps. A first moment is (c step)^2 with the sign of c, a second one (c^2 step)^2. A warp works on a block,
// each lane on a word.

#define MOMENT_BLOCK 128u
#define BLOCK_WORDS 32u
#define FIRST_TOP 127.0f
#define SECOND_TOP 65025.0f
#define LARGEST 3e38f

DEVICE float first_value(u32 code, float step) {
    float root = static_cast<float>(static_cast<signed char>(code)) * step;
    return root * fabsf(root);
}

DEVICE float second_value(u32 code, float step) {
    float c = static_cast<float>(code);
    float root = c * c * step;
    return root * root;
}

// A number in (0, 1) of 16 random bits.
DEVICE float fraction(u32 random) {
    return (static_cast<float>(random & 0xffffu) + 0.5f) * (1.0f / 65536.0f);
}

struct Step {
    float step, inverse;
};

// Of the largest magnitude and the largest code's root.
DEVICE Step block_step(float largest, float top) {
    float root = sqrtf(largest < LARGEST ? largest : LARGEST);
    return {root / top, root > 0.0f ? top / root : 0.0f};
}

DEVICE u32 first_code(float m, float inverse, u32 random) {
    float y = sqrtf(fabsf(m)) * inverse;
    y = y < FIRST_TOP ? y : FIRST_TOP;
    i32 c = static_cast<i32>(y);
    float below = static_cast<float>(c);
    bool up = fraction(random) * (2.0f * below + 1.0f) < (y - below) * (y + below);
    i32 magnitude = c + (up ? 1 : 0);
    return static_cast<u32>(m < 0.0f ? -magnitude : magnitude) & 0xffu;
}

DEVICE u32 second_code(float v, float inverse, u32 random) {
    float square = sqrtf(v) * inverse;
    square = square < SECOND_TOP ? square : SECOND_TOP;
    i32 c = static_cast<i32>(sqrtf(square));
    float below = static_cast<float>(c * c), gap = static_cast<float>(2 * c + 1);
    bool up = fraction(random >> 16) * (gap * (2.0f * below + gap)) < (square - below) * (square + below);
    u32 code = static_cast<u32>(c) + (up ? 1u : 0u);
    // 0 is for what is 0.
    return v > 0.0f && code == 0 ? 1u : code;
}
