// GatedDeltaNet: the short convolution and the recurrence. Include after a lane header and simd/math.hpp.
//
// Both go token by token with their state in nearby memory, so it does not matter how tokens were cut into chunks.
#pragma once

#include "kernels/types.hpp"

namespace flashmoe::FLASHMOE_ISA {

constexpr Index kMaxKernel = 16;

inline void conv(const ConvWork& w) {
    const Index past = w.kernel - 1;
    for_lanes(w.channels, [&](Index c, int lanes) {
        F weights[kMaxKernel], window[kMaxKernel];  // window: inputs t - past .. t
        for (Index j = 0; j < w.kernel; ++j) {
            float column[16] = {};
            for (int l = 0; l < lanes; ++l) column[l] = w.weight[(c + l) * w.kernel + j];
            weights[j] = load(column);
        }
        for (Index j = 0; j < past; ++j) window[j] = load_up_to(w.state + j * w.state_stride + c, lanes);
        for (Index t = 0; t < w.tokens; ++t) {
            window[past] = load_up_to(w.x + t * w.x_stride + c, lanes);
            F total = zero();
            for (Index j = 0; j < w.kernel; ++j) total = fma(weights[j], window[j], total);
            store_up_to(w.out + t * w.out_stride + c, silu(total), lanes);
            for (Index j = 0; j < past; ++j) window[j] = window[j + 1];
        }
        for (Index j = 0; j < past; ++j) store_up_to(w.state + j * w.state_stride + c, window[j], lanes);
    });
}

// out = x / sqrt(sum(x^2) + 1e-6) * scale
inline void l2_normalise(const float* x, Index n, float scale, float* out) {
    F squares = zero();
    for_lanes(n, [&](Index i, int lanes) {
        const F v = load_up_to(x + i, lanes);
        squares = fma(v, v, squares);
    });
    const F inverse = div(set1(1.0f), sqrt(add(set1(sum(squares)), set1(1e-6f))));
    for_lanes(n, [&](Index i, int lanes) {
        store_up_to(out + i, mul(mul(load_up_to(x + i, lanes), inverse), set1(scale)), lanes);
    });
}

// One token on `Vectors` vectors of columns: two passes over the state, [key_dim][16 * Vectors].
template <int Vectors>
inline void delta_token(const DeltaWork& w, Index t, const float* q, const float* k, float* state) {
    const F decay = set1(w.decay[t * w.gate_stride]), beta = set1(w.beta[t * w.gate_stride]);
    const float* v = w.v + t * w.token_stride;
    float* out = w.out + t * w.out_stride;
    F read[Vectors], written[Vectors];
    for (int c = 0; c < Vectors; ++c) read[c] = written[c] = zero();
    for (Index i = 0; i < w.key_dim; ++i)
        for (int c = 0; c < Vectors; ++c)
            read[c] = fma(mul(load(state + (i * Vectors + c) * 16), decay), set1(k[i]), read[c]);
    F change[Vectors];
    for (int c = 0; c < Vectors; ++c) {
        const int lanes = static_cast<int>(w.columns - 16 * c < 16 ? w.columns - 16 * c : 16);
        change[c] = mul(sub(load_up_to(v + 16 * c, lanes), read[c]), beta);
    }
    for (Index i = 0; i < w.key_dim; ++i)
        for (int c = 0; c < Vectors; ++c) {
            float* s = state + (i * Vectors + c) * 16;
            const F now = fma(set1(k[i]), change[c], mul(load(s), decay));
            store(s, now);
            written[c] = fma(now, set1(q[i]), written[c]);
        }
    for (int c = 0; c < Vectors; ++c) {
        const int lanes = static_cast<int>(w.columns - 16 * c < 16 ? w.columns - 16 * c : 16);
        store_up_to(out + 16 * c, written[c], lanes);
    }
}

template <int Vectors>
inline void delta_columns(const DeltaWork& w) {
    float* q = w.scratch + w.key_dim * kDeltaColumns;
    float* k = q + w.key_dim;
    const auto each_vector = [&](const auto& step) {
        for (Index i = 0; i < w.key_dim; ++i)
            for_lanes(w.columns, [&](Index c, int lanes) {
                step(w.state + i * w.state_stride + c, w.scratch + i * Vectors * 16 + c, lanes);
            });
    };
    each_vector([](const float* from, float* to, int lanes) { store(to, load_up_to(from, lanes)); });
    const F scale = div(set1(1.0f), sqrt(set1(static_cast<float>(w.key_dim))));
    float lanes[16];
    store(lanes, scale);
    for (Index t = 0; t < w.tokens; ++t) {
        l2_normalise(w.q + t * w.token_stride, w.key_dim, lanes[0], q);
        l2_normalise(w.k + t * w.token_stride, w.key_dim, 1.0f, k);
        delta_token<Vectors>(w, t, q, k, w.scratch);
    }
    each_vector([](float* to, const float* from, int n) { store_up_to(to, load(from), n); });
}

inline void delta(const DeltaWork& w) {
    switch ((w.columns + 15) / 16) {
        case 4: return delta_columns<4>(w);
        case 3: return delta_columns<3>(w);
        case 2: return delta_columns<2>(w);
        default: return delta_columns<1>(w);
    }
}

}  // namespace flashmoe::FLASHMOE_ISA
