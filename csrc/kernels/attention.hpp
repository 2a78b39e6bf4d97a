// Attention of one token's heads over a cache in blocks. Include after a lane header and simd/math.hpp.
//
// Keys lie transposed, [head_dim, kBlockTokens], so a lane is a key and scores need no sum across lanes; values lie a
// token a row. A block at a time: scores, the running maximum, weights, the weighted sum of values. Blocks begin at
// fixed positions of the sequence, so a query's result does not depend on how the sequence came.
#pragma once

#include "kernels/types.hpp"

namespace flashmoe::FLASHMOE_ISA {

constexpr int kKeyVectors = kBlockTokens / 16;

// weights[h][key] = q_h . k_key for the block's keys; q is scaled already, [head][head_dim].
template <int Heads>
inline void block_scores(const float* q, const std::uint16_t* keys, Index dim, float (*weights)[kBlockTokens]) {
    F scores[Heads][kKeyVectors];
    for (int h = 0; h < Heads; ++h)
        for (int j = 0; j < kKeyVectors; ++j) scores[h][j] = zero();
    for (Index i = 0; i < dim; ++i, keys += kBlockTokens) {
        for (int j = 0; j < kKeyVectors; ++j) {
            const F key = load_f16(keys + 16 * j);
            for (int h = 0; h < Heads; ++h) scores[h][j] = fma(set1(q[h * dim + i]), key, scores[h][j]);
        }
    }
    for (int h = 0; h < Heads; ++h)
        for (int j = 0; j < kKeyVectors; ++j) store(weights[h] + 16 * j, scores[h][j]);
}

// Turns a head's scores of n keys into weights against the running maximum; returns the factor for what came before.
inline F block_softmax(float* weights, int n, F& largest, F& total) {
    float top[16];
    store(top, largest);
    for (int j = 0; j < n; ++j) top[0] = weights[j] > top[0] ? weights[j] : top[0];
    const F now = set1(top[0]);
    const F decay = exp(sub(largest, now));
    F sums = zero();
    for (int j = 0; j < kBlockTokens; j += 16) {
        store(weights + j, exp(sub(load(weights + j), now)));
        for (int l = j; l < j + 16; ++l)
            if (l >= n) weights[l] = 0.0f;
        sums = add(sums, load(weights + j));
    }
    largest = now;
    total = fma(total, decay, set1(sum(sums)));
    return decay;
}

template <int Heads>
inline void block_values(const float (*weights)[kBlockTokens], const F* decay, const std::uint16_t* values, int n,
                         Index padded, float* sums) {
    for (Index i = 0; i < padded; i += 16) {
        F lanes[Heads];
        for (int h = 0; h < Heads; ++h) lanes[h] = mul(load(sums + h * padded + i), decay[h]);
        for (int j = 0; j < n; ++j) {
            const F value = load_f16(values + j * padded + i);
            for (int h = 0; h < Heads; ++h) lanes[h] = fma(set1(weights[h][j]), value, lanes[h]);
        }
        for (int h = 0; h < Heads; ++h) store(sums + h * padded + i, lanes[h]);
    }
}

template <int Heads>
inline void attend_heads(const AttentionWork& w) {
    float* q = w.scratch + Heads * w.padded_dim;
    float* sums = w.scratch;
    F largest[Heads], total[Heads], decay[Heads];
    for (int h = 0; h < Heads; ++h) {
        for (Index i = 0; i < w.head_dim; ++i) q[h * w.head_dim + i] = w.q[h][i] * w.scale;
        for (Index i = 0; i < w.padded_dim; i += 16) store(sums + h * w.padded_dim + i, zero());
        largest[h] = set1(-__builtin_inff());
        total[h] = zero();
    }
    float weights[Heads][kBlockTokens];
    for (Index begin = 0; begin < w.length; begin += kBlockTokens) {
        const Index block = begin / kBlockTokens;
        const int n = static_cast<int>(w.length - begin < kBlockTokens ? w.length - begin : kBlockTokens);
        block_scores<Heads>(q, w.kv.keys(block), w.head_dim, weights);
        for (int h = 0; h < Heads; ++h) decay[h] = block_softmax(weights[h], n, largest[h], total[h]);
        block_values<Heads>(weights, decay, w.kv.values(block), n, w.padded_dim, sums);
    }
    for (int h = 0; h < Heads; ++h)
        for_lanes(w.head_dim, [&](Index i, int lanes) {
            store_up_to(w.out[h] + i, div(load_up_to(sums + h * w.padded_dim + i, lanes), total[h]), lanes);
        });
}

inline void attend(const AttentionWork& w) {
    switch (w.heads) {
        case 4: return attend_heads<4>(w);
        case 3: return attend_heads<3>(w);
        case 2: return attend_heads<2>(w);
        default: return attend_heads<1>(w);
    }
}

}  // namespace flashmoe::FLASHMOE_ISA
