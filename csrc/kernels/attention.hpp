// Attention of some tokens' heads over a cache in blocks. Include after a lane header and simd/math.hpp.
//
// Keys lie transposed, [head_dim, kBlockTokens], so a lane is a key and scores need no sum across lanes; values lie a
// token a row. The scale of int8 codes multiplies the sum over its group of a key, and the weight of its value.
//
// Blocks and segments begin at fixed positions of the sequence. A segment is taken alone, a block at a time: scores,
// the running maximum, weights, the weighted sum of values. Then segments are merged in order. So a query's result
// depends neither on how the sequence came nor on which thread took which segment.
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

inline F load_code(const std::uint16_t* p) { return load_f16(p); }
inline F load_code(const std::int8_t* p) { return load_i8(p); }

// The block's keys times the queries, over n dimensions from the first of q and keys on.
template <int Heads, class Code>
FLASHMOE_INLINE void multiply_keys(const float* q, Index dim, const Code* keys, Index n, F (&scores)[Heads][kKeyVectors]) {
    for (int h = 0; h < Heads; ++h)
        for (int j = 0; j < kKeyVectors; ++j) scores[h][j] = zero();
    for (Index i = 0; i < n; ++i, keys += kBlockTokens) {
        F key[kKeyVectors];
        for (int j = 0; j < kKeyVectors; ++j) key[j] = load_code(keys + 16 * j);
        for (int h = 0; h < Heads; ++h) {
            const F query = set1(q[h * dim + i]);
            for (int j = 0; j < kKeyVectors; ++j) scores[h][j] = fma(query, key[j], scores[h][j]);
        }
    }
}

// weights[h][key] = q_h . k_key for the block's keys.
template <int Heads>
inline void block_scores(const float* q, const std::uint16_t* keys, Index dim, float (*weights)[kBlockTokens]) {
    F scores[Heads][kKeyVectors];
    multiply_keys<Heads>(q, dim, keys, dim, scores);
    for (int h = 0; h < Heads; ++h)
        for (int j = 0; j < kKeyVectors; ++j) store(weights[h] + 16 * j, scores[h][j]);
}

// The same of keys in int8, group by group of dimensions.
template <int Heads>
inline void block_scores(const float* q, const std::int8_t* keys, const float* scales, Index dim,
                         float (*weights)[kBlockTokens]) {
    for (int h = 0; h < Heads; ++h)
        for (int j = 0; j < kBlockTokens; j += 16) store(weights[h] + j, zero());
    for (Index i = 0; i < dim; i += kGroup, scales += kBlockTokens) {
        F scores[Heads][kKeyVectors];
        multiply_keys<Heads>(q + i, dim, keys + i * kBlockTokens, dim - i < kGroup ? dim - i : kGroup, scores);
        for (int h = 0; h < Heads; ++h)
            for (int j = 0; j < kKeyVectors; ++j) {
                float* to = weights[h] + 16 * j;
                store(to, fma(scores[h][j], load(scales + 16 * j), load(to)));
            }
    }
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

// `Vectors` vectors of columns from column i on of the weighted sums of n values; scales: theirs in these columns.
template <int Heads, int Vectors, class Code>
inline void add_values(const float (*weights)[kBlockTokens], const F* decay, const Code* values,
                       [[maybe_unused]] const float* scales, int n, Index padded, Index i, float* rows) {
    F lanes[Heads][Vectors];
    for (int h = 0; h < Heads; ++h)
        for (int v = 0; v < Vectors; ++v) lanes[h][v] = mul(load(AttentionRow(rows, h, padded).sums + i + 16 * v), decay[h]);
    for (int j = 0; j < n; ++j) {
        F value[Vectors];
        for (int v = 0; v < Vectors; ++v) value[v] = load_code(values + j * padded + i + 16 * v);
        for (int h = 0; h < Heads; ++h) {
            float share = weights[h][j];
            if constexpr (sizeof(Code) == 1) share *= scales[j];
            const F weight = set1(share);
            for (int v = 0; v < Vectors; ++v) lanes[h][v] = fma(weight, value[v], lanes[h][v]);
        }
    }
    for (int h = 0; h < Heads; ++h)
        for (int v = 0; v < Vectors; ++v) store(AttentionRow(rows, h, padded).sums + i + 16 * v, lanes[h][v]);
}

template <int Heads, class Code>
inline void attend_block(const AttentionWork& w, Index block, int n, const float* q, float* rows) {
    float weights[Heads][kBlockTokens];
    F decay[Heads];
    const Code* keys = w.kv.part<Code>(block, w.kv.at.keys);
    if constexpr (sizeof(Code) == 1)
        block_scores<Heads>(q, keys, w.kv.part<float>(block, w.kv.at.key_scales), w.head_dim, weights);
    else
        block_scores<Heads>(q, keys, w.head_dim, weights);
    for (int h = 0; h < Heads; ++h) decay[h] = block_softmax(weights[h], n, AttentionRow(rows, h, w.padded_dim));
    const Code* values = w.kv.part<Code>(block, w.kv.at.values);
    const float* scales = w.kv.part<float>(block, w.kv.at.value_scales);
    const Index padded = w.padded_dim;
    Index i = 0;
    for (; i + kGroup <= padded; i += kGroup, scales += kBlockTokens)
        add_values<Heads, kGroup / 16>(weights, decay, values, scales, n, padded, i, rows);
    for (; i < padded; i += 16) add_values<Heads, 1>(weights, decay, values, scales, n, padded, i, rows);
}

// One token's heads, kTile of which share what is read of the block.
template <class Code>
inline void attend_token(const AttentionWork& w, Index token, Index block, int n, float* all) {
    for (Index h = 0; h < w.heads; h += kTile) {
        const float* q = w.queries + (token * w.heads + h) * w.head_dim;
        float* rows = all + (token * w.heads + h) * attention_row_floats(w.padded_dim);
        switch (w.heads - h) {
            case 1: attend_block<1, Code>(w, block, n, q, rows); break;
            case 2: attend_block<2, Code>(w, block, n, q, rows); break;
            case 3: attend_block<3, Code>(w, block, n, q, rows); break;
            default: attend_block<4, Code>(w, block, n, q, rows);
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
            if (n <= 0) continue;
            const int seen = static_cast<int>(n < kBlockTokens ? n : kBlockTokens);
            if (w.kv.bits == 8) attend_token<std::int8_t>(w, t, at / kBlockTokens, seen, rows);
            else attend_token<std::uint16_t>(w, t, at / kBlockTokens, seen, rows);
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
