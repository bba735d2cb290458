// From qkv rows [tokens, (n_head + 2 n_kv_head) HEAD_DIM] to queries, keys and values, and back: per-head RMSNorm (QK-norm,
// Dehghani et al. 2023, arXiv 2302.05442), then rotary positions on halves (RoPE, Su et al. 2021, arXiv 2104.09864).
//
// Forward, for a head x = (a, b) of two halves: x' = x s w with s = 1 / sqrt(mean(x^2) + eps); a'' = a' cos - b' sin,
// b'' = b' cos + a' sin, the angles being those of the token's position. Values are copied. Queries go to their token's
// row, keys and values to the row that their token's slot names.
// Backward: the gradient is turned back, which gives g; d_weight += sum g h with h = x s; d_x = s (g w - h mean(g w h)).
//
// Bytes: each qkv row is read and written once, 2 width sizeof(S), and backward reads the incoming gradients besides. About
// 10 FLOPs an element. HEAD_DIM is even, at most 512. A head belongs to a group of up to 32 neighbouring threads.

constexpr u32 HALF = HEAD_DIM / 2;
// Neighbours that a thread takes at once of either half.
constexpr u32 N = HALF % 8 == 0 ? 8 : HALF % 4 == 0 ? 4 : 1;
constexpr u32 PIECES = HALF / N;
// The next power of two, at most a warp.
constexpr u32 GROUP = PIECES > 16 ? 32 : PIECES > 8 ? 16 : PIECES > 4 ? 8 : PIECES > 2 ? 4 : PIECES > 1 ? 2 : 1;
constexpr u32 ROUNDS = (PIECES + GROUP - 1) / GROUP;
constexpr u32 THREADS = 256;
constexpr u32 GROUPS = THREADS / GROUP;

// What a thread holds of a head: in round r, N neighbours of each half from place (r GROUP + lane) N on; 0 beyond the end.
struct Share {
    float a[ROUNDS][N];
    float b[ROUNDS][N];
};

// Calls body(r, place) for every round in which this thread has a piece.
template <typename Body>
DEVICE void for_pieces(Body body) {
#pragma unroll
    for (u32 r = 0; r < ROUNDS; ++r) {
        u32 piece = r * GROUP + threadIdx.x % GROUP;
        if (piece < PIECES) {
            body(r, piece * N);
        }
    }
}

DEVICE Share zeros() {
    Share x;
#pragma unroll
    for (u32 r = 0; r < ROUNDS; ++r) {
#pragma unroll
        for (u32 j = 0; j < N; ++j) {
            x.a[r][j] = x.b[r][j] = 0.0f;
        }
    }
    return x;
}

template <typename T>
DEVICE Share load_share(const T* head) {
    Share x = zeros();
    for_pieces([&](u32 r, u32 place) {
        load(head + place, x.a[r]);
        load(head + HALF + place, x.b[r]);
    });
    return x;
}

DEVICE void store_share(S* head, const Share& x) {
    for_pieces([&](u32 r, u32 place) {
        store(head + place, x.a[r]);
        store(head + HALF + place, x.b[r]);
    });
}

// sum x y over the head; every thread of the warp must call it.
DEVICE float dot(const Share& x, const Share& y) {
    float sum = 0.0f;
#pragma unroll
    for (u32 r = 0; r < ROUNDS; ++r) {
#pragma unroll
        for (u32 j = 0; j < N; ++j) {
            sum = fmaf(x.a[r][j], y.a[r][j], sum);
            sum = fmaf(x.b[r][j], y.b[r][j], sum);
        }
    }
    for (u32 distance = GROUP / 2; distance > 0; distance /= 2) {
        sum += __shfl_xor_sync(ALL_LANES, sum, distance);
    }
    return sum;
}

// x = x scale w
DEVICE void scale_by(Share& x, float scale, const Share& w) {
#pragma unroll
    for (u32 r = 0; r < ROUNDS; ++r) {
#pragma unroll
        for (u32 j = 0; j < N; ++j) {
            x.a[r][j] *= scale * w.a[r][j];
            x.b[r][j] *= scale * w.b[r][j];
        }
    }
}

// Turns x by the angles of a position; back, with direction -1.
DEVICE void turn(Share& x, const float* cos, const float* sin, u32 position, float direction) {
    for_pieces([&](u32 r, u32 place) {
        float c[N], s[N];
        load(cos + u64(position) * HALF + place, c);
        load(sin + u64(position) * HALF + place, s);
#pragma unroll
        for (u32 j = 0; j < N; ++j) {
            float a = x.a[r][j], b = x.b[r][j], turn_sin = direction * s[j];
            x.a[r][j] = fmaf(a, c[j], -(b * turn_sin));
            x.b[r][j] = fmaf(b, c[j], a * turn_sin);
        }
    });
}

// The head that a group works on, of (token, head) pairs in rows of n_head + 2 n_kv_head.
struct Place {
    u32 token, head;
    bool here, is_query, is_key;
};

DEVICE Place place_of(u32 item, u32 items, u32 first_token, u32 n_head, u32 n_kv_head) {
    u32 heads = n_head + 2 * n_kv_head;
    Place place;
    place.here = item < items;
    place.token = first_token + item / heads;
    place.head = item % heads;
    place.is_query = place.here && place.head < n_head;
    place.is_key = place.here && place.head >= n_head && place.head < n_head + n_kv_head;
    return place;
}

// Offset of the head in q, or in k or v.
DEVICE u64 offset_of(const Place& place, const u32* slots, u32 n_head, u32 n_kv_head) {
    if (place.is_query) {
        return (u64(place.token) * n_head + place.head) * HEAD_DIM;
    }
    u32 head = place.head - n_head - (place.is_key ? 0 : n_kv_head);
    return (u64(slots[place.token]) * n_kv_head + head) * HEAD_DIM;
}

// q_weight and k_weight are null without a norm.
extern "C" __global__ __launch_bounds__(THREADS) void split_qkv(
    const S* qkv, const float* q_weight, const float* k_weight, const float* cos, const float* sin, const u32* positions,
    const u32* slots, S* q, S* k, S* v, u32 tokens, u32 n_head, u32 n_kv_head, float eps) {
    u32 items = tokens * (n_head + 2 * n_kv_head);
    u32 item = blockIdx.x * GROUPS + threadIdx.x / GROUP;
    Place place = place_of(item, items, 0, n_head, n_kv_head);
    Share x = place.here ? load_share(qkv + u64(item) * HEAD_DIM) : zeros();
    if (q_weight != nullptr) {
        float scale = 1.0f / sqrtf(dot(x, x) / float(HEAD_DIM) + eps);
        if (place.is_query || place.is_key) {
            scale_by(x, scale, load_share(place.is_query ? q_weight : k_weight));
        }
    }
    if (!place.here) {
        return;
    }
    if (place.is_query || place.is_key) {
        turn(x, cos, sin, positions[place.token], 1.0f);
    }
    S* to = place.is_query ? q : place.is_key ? k : v;
    store_share(to + offset_of(place, slots, n_head, n_kv_head), x);
}

// sum += g h
DEVICE void add_product(Share& sum, const Share& g, const Share& h) {
#pragma unroll
    for (u32 r = 0; r < ROUNDS; ++r) {
#pragma unroll
        for (u32 j = 0; j < N; ++j) {
            sum.a[r][j] = fmaf(g.a[r][j], h.a[r][j], sum.a[r][j]);
            sum.b[r][j] = fmaf(g.b[r][j], h.b[r][j], sum.b[r][j]);
        }
    }
}

// In place: a thread stores where it alone has loaded; without a norm nothing is loaded from qkv.
// A block takes `block_tokens` tokens; a group, every GROUPS-th of their heads. With a norm, partial [blocks][2][HEAD_DIM] receives
// the block's share of the gradients of q_weight and k_weight: each group adds up its heads in order, then the groups are
// added in order.
extern "C" __global__ __launch_bounds__(THREADS) void split_qkv_backward(
    S* qkv, const float* q_weight, const float* k_weight, const float* cos, const float* sin, const u32* positions,
    const u32* slots, const S* dq, const S* dk, const S* dv, float* partial, u32 tokens, u32 block_tokens, u32 n_head,
    u32 n_kv_head, float eps) {
    u32 heads = n_head + 2 * n_kv_head;
    u32 first = blockIdx.x * block_tokens;
    u32 count = min(tokens - first, block_tokens);
    u32 group = threadIdx.x / GROUP;
    Share q_sum = zeros(), k_sum = zeros();
    // Whole warps stay together: the sums over a head need every lane.
    for (u32 at = 0; at < count * heads; at += GROUPS) {
        u32 item = at + group;
        Place place = place_of(item, count * heads, first, n_head, n_kv_head);
        u64 row = (u64(first) * heads + item) * HEAD_DIM;
        Share g = zeros();
        if (place.here) {
            const S* from = place.is_query ? dq : place.is_key ? dk : dv;
            g = load_share(from + offset_of(place, slots, n_head, n_kv_head));
            if (place.is_query || place.is_key) {
                turn(g, cos, sin, positions[place.token], -1.0f);
            }
        }
        if (q_weight != nullptr) {
            bool normed = place.is_query || place.is_key;
            Share h = normed ? load_share(qkv + row) : zeros();
            float scale = 1.0f / sqrtf(dot(h, h) / float(HEAD_DIM) + eps);
#pragma unroll
            for (u32 r = 0; r < ROUNDS; ++r) {
#pragma unroll
                for (u32 j = 0; j < N; ++j) {
                    h.a[r][j] *= scale;
                    h.b[r][j] *= scale;
                }
            }
            if (place.is_query) {
                add_product(q_sum, g, h);
            } else if (place.is_key) {
                add_product(k_sum, g, h);
            }
            if (normed) {
                scale_by(g, 1.0f, load_share(place.is_query ? q_weight : k_weight));
            }
            float mean = dot(g, h) / float(HEAD_DIM);
            if (normed) {
#pragma unroll
                for (u32 r = 0; r < ROUNDS; ++r) {
#pragma unroll
                    for (u32 j = 0; j < N; ++j) {
                        g.a[r][j] = scale * (g.a[r][j] - h.a[r][j] * mean);
                        g.b[r][j] = scale * (g.b[r][j] - h.b[r][j] * mean);
                    }
                }
            }
        }
        if (place.here) {
            store_share(qkv + row, g);
        }
    }
    if (q_weight == nullptr) {
        return;
    }
    SHARED_MEMORY(float, sums); // [GROUPS][2][HEAD_DIM]
    float* of_group = sums + group * 2 * HEAD_DIM;
    for_pieces([&](u32 r, u32 place) {
        store(of_group + place, q_sum.a[r]);
        store(of_group + HALF + place, q_sum.b[r]);
        store(of_group + HEAD_DIM + place, k_sum.a[r]);
        store(of_group + HEAD_DIM + HALF + place, k_sum.b[r]);
    });
    __syncthreads();
    for (u32 i = threadIdx.x; i < 2 * HEAD_DIM; i += THREADS) {
        float sum = 0.0f;
        for (u32 other = 0; other < GROUPS; ++other) {
            sum += sums[other * 2 * HEAD_DIM + i];
        }
        partial[u64(blockIdx.x) * 2 * HEAD_DIM + i] = sum;
    }
}
