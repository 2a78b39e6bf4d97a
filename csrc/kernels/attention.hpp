// Attention of some tokens' heads over a cache in blocks. Include after a lane header and simd/math.hpp.
//
// Keys lie transposed, [head_dim, kBlockTokens], so a lane is a key and scores need no sum across lanes; values lie a
// token a row. Blocks and segments begin at fixed positions of the sequence. A segment is taken alone, a block at a
// time: scores, the running maximum, weights, the weighted sum of values. Then segments are merged in order. So a
// query's result depends neither on how the sequence came nor on which thread took which segment.
#pragma once

#include "kernels/types.hpp"

namespace flashmoe::FLASHMOE_ISA {

constexpr int kKeyVectors = kBlockTokens / 16;

// What a row has gathered: the weighted sum [padded_dim], then the largest score and the sum of weights. A sum of
// weights of 0 says that there were no keys.
struct AttentionRow {
    float *sums, *largest, *total;
    AttentionRow(float* rows, Index row, Index padded)
        : sums(rows + row * attention_row_floats(padded)), largest(sums + padded), total(largest + 1) {}
};

// weights[h][key] = q_h . k_key for the block's keys.
template <int Heads>
inline void block_scores(const float* q, const std::uint16_t* keys, Index dim, float (*weights)[kBlockTokens]) {
    F scores[Heads][kKeyVectors];
    for (int h = 0; h < Heads; ++h)
        for (int j = 0; j < kKeyVectors; ++j) scores[h][j] = zero();
    for (Index i = 0; i < dim; ++i, keys += kBlockTokens) {
        F key[kKeyVectors];
        for (int j = 0; j < kKeyVectors; ++j) key[j] = load_f16(keys + 16 * j);
        for (int h = 0; h < Heads; ++h) {
            const F query = set1(q[h * dim + i]);
            for (int j = 0; j < kKeyVectors; ++j) scores[h][j] = fma(query, key[j], scores[h][j]);
        }
    }
    for (int h = 0; h < Heads; ++h)
        for (int j = 0; j < kKeyVectors; ++j) store(weights[h] + 16 * j, scores[h][j]);
}

// Turns a row's scores of n keys into weights against the running maximum; returns the factor for what came before.
inline F block_softmax(float* weights, int n, const AttentionRow& row) {
    for (int l = n; l < kBlockTokens; ++l) weights[l] = -__builtin_inff();
    F top = set1(*row.largest);
    for (int j = 0; j < kBlockTokens; j += 16) top = max(load(weights + j), top);
    const F now = set1(max_lane(top));
    const F decay = exp(sub(set1(*row.largest), now));
    for (int j = 0; j < kBlockTokens; j += 16) store(weights + j, exp(sub(load(weights + j), now)));
    for (int l = n; l < kBlockTokens; ++l) weights[l] = 0.0f;
    F sums = zero();
    for (int j = 0; j < kBlockTokens; j += 16) sums = add(sums, load(weights + j));
    store_n(row.largest, now, 1);
    store_n(row.total, fma(set1(*row.total), decay, set1(sum(sums))), 1);
    return decay;
}

// `Vectors` vectors of columns from column i on of the weighted sums of n values.
template <int Heads, int Vectors>
inline void add_values(const float (*weights)[kBlockTokens], const F* decay, const std::uint16_t* values, int n,
                       Index padded, Index i, float* rows) {
    F lanes[Heads][Vectors];
    for (int h = 0; h < Heads; ++h)
        for (int v = 0; v < Vectors; ++v) lanes[h][v] = mul(load(AttentionRow(rows, h, padded).sums + i + 16 * v), decay[h]);
    for (int j = 0; j < n; ++j) {
        F value[Vectors];
        for (int v = 0; v < Vectors; ++v) value[v] = load_f16(values + j * padded + i + 16 * v);
        for (int h = 0; h < Heads; ++h) {
            const F weight = set1(weights[h][j]);
            for (int v = 0; v < Vectors; ++v) lanes[h][v] = fma(weight, value[v], lanes[h][v]);
        }
    }
    for (int h = 0; h < Heads; ++h)
        for (int v = 0; v < Vectors; ++v) store(AttentionRow(rows, h, padded).sums + i + 16 * v, lanes[h][v]);
}

template <int Heads>
inline void attend_block(const AttentionWork& w, Index block, int n, const float* q, float* rows) {
    float weights[Heads][kBlockTokens];
    F decay[Heads];
    block_scores<Heads>(q, w.kv.keys(block), w.head_dim, weights);
    for (int h = 0; h < Heads; ++h) decay[h] = block_softmax(weights[h], n, AttentionRow(rows, h, w.padded_dim));
    const std::uint16_t* values = w.kv.values(block);
    Index i = 0;
    for (; i + 64 <= w.padded_dim; i += 64) add_values<Heads, 4>(weights, decay, values, n, w.padded_dim, i, rows);
    for (; i < w.padded_dim; i += 16) add_values<Heads, 1>(weights, decay, values, n, w.padded_dim, i, rows);
}

// One token's heads, kTile of which share what is read of the block.
inline void attend_token(const AttentionWork& w, Index token, Index block, int n, float* all) {
    for (Index h = 0; h < w.heads; h += kTile) {
        const float* q = w.queries + (token * w.heads + h) * w.head_dim;
        float* rows = all + (token * w.heads + h) * attention_row_floats(w.padded_dim);
        switch (w.heads - h) {
            case 1: attend_block<1>(w, block, n, q, rows); break;
            case 2: attend_block<2>(w, block, n, q, rows); break;
            case 3: attend_block<3>(w, block, n, q, rows); break;
            default: attend_block<4>(w, block, n, q, rows);
        }
    }
}

inline void attend(const AttentionWork& w, Index segment, float* rows) {
    for (Index r = 0; r < w.tokens * w.heads; ++r) {
        const float* q = w.q + r / w.heads * w.token_stride + r % w.heads * w.head_stride;
        for (Index i = 0; i < w.head_dim; ++i) w.queries[r * w.head_dim + i] = q[i] * w.scale;
        const AttentionRow row(rows, r, w.padded_dim);
        for (Index i = 0; i < w.padded_dim; i += 16) store(row.sums + i, zero());
        *row.largest = -__builtin_inff();
        *row.total = 0.0f;
    }
    const Index begin = segment * kSegmentTokens, last = w.length + w.tokens - 1;
    const Index end = begin + kSegmentTokens < last ? begin + kSegmentTokens : last;
    for (Index at = begin; at < end; at += kBlockTokens)
        for (Index t = 0; t < w.tokens; ++t) {
            const Index n = w.length + t - at;
            if (n > 0) attend_token(w, t, at / kBlockTokens, static_cast<int>(n < kBlockTokens ? n : kBlockTokens), rows);
        }
}

// Adds what a later segment gathered.
inline void merge_attention(float* into, const float* from, Index rows, Index padded) {
    for (Index r = 0; r < rows; ++r) {
        const AttentionRow a(into, r, padded), b(const_cast<float*>(from), r, padded);
        if (*b.total == 0.0f) continue;
        const F now = max(set1(*a.largest), set1(*b.largest));
        const F before = exp(sub(set1(*a.largest), now)), after = exp(sub(set1(*b.largest), now));
        for (Index i = 0; i < padded; i += 16)
            store(a.sums + i, fma(load(b.sums + i), after, mul(load(a.sums + i), before)));
        store_n(a.largest, now, 1);
        store_n(a.total, fma(set1(*b.total), after, mul(set1(*a.total), before)), 1);
    }
}

inline void finish_attention(const float* rows, Index row, Index dim, Index padded, float* out) {
    const AttentionRow from(const_cast<float*>(rows), row, padded);
    const F total = set1(*from.total);
    for_lanes(dim, [&](Index i, int lanes) { store_up_to(out + i, div(load_up_to(from.sums + i, lanes), total), lanes); });
}

}  // namespace flashmoe::FLASHMOE_ISA
