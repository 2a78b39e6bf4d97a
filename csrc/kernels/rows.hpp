// Norms, gates and sums over ranks: one row at a time. Include after a lane header and simd/math.hpp.
#pragma once

#include "kernels/types.hpp"

namespace flashmoe::FLASHMOE_ISA {

// 1 / sqrt(mean(x^2) + eps)
inline F inverse_rms(const float* x, float eps, Index n) {
    F squares = zero();
    for_lanes(n, [&](Index i, int lanes) {
        const F v = load_up_to(x + i, lanes);
        squares = fma(v, v, squares);
    });
    const F mean = div(set1(sum(squares)), set1(static_cast<float>(n)));
    return div(set1(1.0f), sqrt(add(mean, set1(eps))));
}

inline void rms_norm(const float* x, const float* weight, float eps, Index n, float* out) {
    const F inverse = inverse_rms(x, eps, n);
    for_lanes(n, [&](Index i, int lanes) {
        const F normed = mul(load_up_to(x + i, lanes), inverse);
        store_up_to(out + i, mul(normed, load_up_to(weight + i, lanes)), lanes);
    });
}

inline void norm_rope(const float* x, const float* weight, float eps, Index n, const float* cos, const float* sin,
                      Index half, float* out) {
    rms_norm(x, weight, eps, n, out);
    for_lanes(half, [&](Index i, int lanes) {
        const F c = load_up_to(cos + i, lanes), s = load_up_to(sin + i, lanes);
        const F a = load_up_to(out + i, lanes), b = load_up_to(out + half + i, lanes);
        store_up_to(out + i, sub(mul(a, c), mul(b, s)), lanes);
        store_up_to(out + half + i, fma(b, c, mul(a, s)), lanes);
    });
}

inline void gated_rms_norm(const float* x, const float* z, const float* weight, float eps, Index n, float* out) {
    const F inverse = inverse_rms(x, eps, n);
    for_lanes(n, [&](Index i, int lanes) {
        const F normed = mul(mul(load_up_to(x + i, lanes), inverse), load_up_to(weight + i, lanes));
        store_up_to(out + i, mul(normed, silu(load_up_to(z + i, lanes))), lanes);
    });
}

inline void sigmoid_gate(const float* x, const float* gate, Index n, float* out) {
    for_lanes(n, [&](Index i, int lanes) {
        store_up_to(out + i, mul(load_up_to(x + i, lanes), sigmoid(load_up_to(gate + i, lanes))), lanes);
    });
}

inline void silu_mul(const float* gate, const float* up, Index n, float* out) {
    for_lanes(n, [&](Index i, int lanes) {
        store_up_to(out + i, mul(silu(load_up_to(gate + i, lanes)), load_up_to(up + i, lanes)), lanes);
    });
}

inline void softmax(float* x, Index n) {
    F largest = set1(x[0]);
    for (Index i = 0; i + 16 <= n; i += 16) largest = max(largest, load(x + i));
    float top = max_lane(largest);
    for (Index i = n / 16 * 16; i < n; ++i) top = x[i] > top ? x[i] : top;
    F total = zero();
    for_lanes(n, [&](Index i, int lanes) {
        store_up_to(x + i, exp(sub(load_up_to(x + i, lanes), set1(top))), lanes);
        total = add(total, load_up_to(x + i, lanes));
    });
    const F whole = set1(sum(total));
    for_lanes(n, [&](Index i, int lanes) { store_up_to(x + i, div(load_up_to(x + i, lanes), whole), lanes); });
}

inline void combine(const float* outputs, const float* weights, Index ranks, const float* shared, float gate, Index n,
                    float* out) {
    const F share = sigmoid(set1(gate));
    for_lanes(n, [&](Index i, int lanes) {
        F total = zero();
        for (Index r = 0; r < ranks; ++r)
            total = fma(set1(weights[r]), load_up_to(outputs + r * n + i, lanes), total);
        if (shared) total = fma(share, load_up_to(shared + i, lanes), total);
        store_up_to(out + i, total, lanes);
    });
}

inline void to_f16(const float* x, Index n, std::uint16_t* out) {
    const F top = set1(65504.0f);
    for_lanes(n, [&](Index i, int lanes) {
        const F held = min(top, max(set1(-65504.0f), load_up_to(x + i, lanes)));
        std::uint16_t halves[16];
        store_f16(halves, held);
        __builtin_memcpy(out + i, halves, static_cast<unsigned>(lanes) * 2);
    });
}

inline void from_f16(const std::uint16_t* x, Index n, float* out) {
    for_lanes(n, [&](Index i, int lanes) {
        std::uint16_t halves[16] = {};
        __builtin_memcpy(halves, x + i, static_cast<unsigned>(lanes) * 2);
        store_up_to(out + i, load_f16(halves), lanes);
    });
}

}  // namespace flashmoe::FLASHMOE_ISA
