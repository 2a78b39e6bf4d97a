// GatedDeltaNet: the short convolution and the recurrence. Include after a lane header and simd/math.hpp.
//
// Both go token by token with their state in the first-level cache, so it does not matter how tokens were cut into
// chunks. The recurrence passes over its state once a token: the change of one token and the reading of the next.
#pragma once

#include "kernels/types.hpp"

namespace flashmoe::FLASHMOE_ISA {

constexpr Index kMaxKernel = 16;

// Row t of the inputs, those before the chunk included.
inline const float* conv_row(const ConvWork& w, Index t) {
    return t < 0 ? w.state + (t + w.kernel - 1) * w.state_stride : w.x + t * w.x_stride;
}

// Taps: how many, if it is known when compiling, else 0.
template <int Taps>
inline void conv_tokens(const ConvWork& w) {
    const Index taps = Taps ? Taps : w.kernel;
    for (Index t = 0; t < w.tokens; ++t) {
        const float* rows[kMaxKernel];
        for (Index j = 0; j < taps; ++j) rows[j] = conv_row(w, t + j - taps + 1);
        for_lanes(w.channels, [&](Index c, int lanes) {
            F total = zero();
            for (Index j = 0; j < taps; ++j)
                total = fma(load_up_to(w.taps + j * w.channels + c, lanes), load_up_to(rows[j] + c, lanes), total);
            store_up_to(w.out + t * w.out_stride + c, silu(total), lanes);
        });
    }
}

inline void conv(const ConvWork& w) {
    if (w.tokens == 0) return;
    for (Index j = 0; j < w.kernel; ++j)
        for (Index c = 0; c < w.channels; ++c) w.taps[j * w.channels + c] = w.weight[c * w.kernel + j];
    if (w.kernel == 4) conv_tokens<4>(w);
    else conv_tokens<0>(w);
    for (Index j = 0; j < w.kernel - 1; ++j)
        __builtin_memcpy(w.state + j * w.state_stride, conv_row(w, w.tokens + j - w.kernel + 1),
                         static_cast<unsigned long>(w.channels) * sizeof(float));
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

inline void normalise_delta(const float* q, const float* k, Index n, float* unit_q, float* unit_k, float* along) {
    float scale[16];
    store(scale, div(set1(1.0f), sqrt(set1(static_cast<float>(n)))));
    l2_normalise(q, n, scale[0], unit_q);
    l2_normalise(k, n, 1.0f, unit_k);
    F products = zero();
    for_lanes(n, [&](Index i, int lanes) {
        products = fma(load_up_to(unit_q + i, lanes), load_up_to(unit_k + i, lanes), products);
    });
    *along = sum(products);
}

// A token's place in a DeltaWork: its normalised query and key, and what it changes of `Vectors` vectors of columns.
template <int Vectors>
struct DeltaToken {
    const float *q, *k;
    F decay, change[Vectors];
};

// reads[0] = S^T k and reads[1] = S^T q of `next`, after S = decay * S + k (x) change of `last`, if there are both: one
// pass over the state, [key_dim][16 * Vectors].
template <int Vectors, bool Change, bool Read>
inline void pass_state(Index key_dim, float* state, const DeltaToken<Vectors>& last, const DeltaToken<Vectors>& next,
                       F (&reads)[2][Vectors]) {
    for (int c = 0; c < Vectors; ++c) reads[0][c] = reads[1][c] = zero();
    for (Index i = 0; i < key_dim; ++i)
        for (int c = 0; c < Vectors; ++c) {
            float* s = state + (i * Vectors + c) * 16;
            F now = load(s);
            if constexpr (Change) {
                now = fma(set1(last.k[i]), last.change[c], mul(now, last.decay));
                store(s, now);
            }
            if constexpr (Read) {
                reads[0][c] = fma(now, set1(next.k[i]), reads[0][c]);
                reads[1][c] = fma(now, set1(next.q[i]), reads[1][c]);
            }
        }
}

// change = (v - decay * S^T k) * beta; out = decay * S^T q + (k . q) * change, which is what S^T q is afterwards.
template <int Vectors>
inline void step_columns(const DeltaWork& w, Index t, const F (&reads)[2][Vectors], DeltaToken<Vectors>& token) {
    const F beta = set1(w.beta[t * w.gate_stride]), along = set1(w.along[t * w.token_stride]);
    token.decay = set1(w.decay[t * w.gate_stride]);
    for (int c = 0; c < Vectors; ++c) {
        const int lanes = static_cast<int>(w.columns - 16 * c < 16 ? w.columns - 16 * c : 16);
        const F v = load_up_to(w.v + t * w.v_stride + 16 * c, lanes);
        token.change[c] = mul(sub(v, mul(token.decay, reads[0][c])), beta);
        const F out = fma(along, token.change[c], mul(token.decay, reads[1][c]));
        store_up_to(w.out + t * w.out_stride + 16 * c, out, lanes);
    }
}

template <int Vectors>
inline void delta_columns(const DeltaWork& w) {
    DeltaToken<Vectors> last{}, next{};
    F reads[2][Vectors];
    for (Index t = 0; t < w.tokens; ++t) {
        next.q = w.q + t * w.token_stride;
        next.k = w.k + t * w.token_stride;
        if (t == 0) pass_state<Vectors, false, true>(w.key_dim, w.state, last, next, reads);
        else pass_state<Vectors, true, true>(w.key_dim, w.state, last, next, reads);
        step_columns<Vectors>(w, t, reads, next);
        last = next;
    }
    pass_state<Vectors, true, false>(w.key_dim, w.state, last, last, reads);
}

inline void delta(const DeltaWork& w) {
    if (w.tokens == 0) return;
    switch ((w.columns + 15) / 16) {
        case 4: return delta_columns<4>(w);
        case 3: return delta_columns<3>(w);
        case 2: return delta_columns<2>(w);
        default: return delta_columns<1>(w);
    }
}

}  // namespace flashmoe::FLASHMOE_ISA
