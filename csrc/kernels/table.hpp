// The kernels of one instruction set.
//
// All tables compute the same bits: every kernel is written once over 16 lanes (simd/portable.hpp) with the order of
// its sums fixed by shape. A row of a result depends on that row's inputs alone.
#pragma once

#include "kernels/types.hpp"

namespace flashmoe {

struct Kernels {
    const char* name;

    // codes [k], scales and sums [k / 64]: scale = max|x| / 127 a group, code = x / scale rounded half to even.
    void (*quantise_row)(const float* x, Index k, std::int8_t* codes, float* scales, float* sums);

    // Codes of groups first, first + 1, ... into a row in the order in which weights of 4 or of 2 bits meet them: code i of
    // a group in field i % (8 / bits) of the weights' vector.
    void (*split_codes)(const std::int8_t* codes, Index first, Index groups, int bits, std::int8_t* row);

    // rows[t].out[n] = dot(row n of w, rows[t]) for n in [first, last). gathered: what gather_row made of all `count` rows,
    // to be made once for many calls; null: each call does it.
    void (*affine_rows)(const AffineView& w, Index first, Index last, const QuantisedRow* rows, Index count,
                        const std::uint8_t* gathered);
    // Bytes for `count` rows; of a multiple of kRowsTogether, where the rows after those begin.
    Index (*gathered_bytes)(Index columns, Index count);
    // Row t of `count` rows, for weights of so many bits.
    void (*gather_row)(const QuantisedRow& row, Index columns, int bits, Index t, Index count, std::uint8_t* to);
    void (*exact_affine_rows)(const AffineView& w, Index first, Index last, const FloatRow* rows, Index count);
    void (*dense_rows)(const DenseView& w, Index first, Index last, const FloatRow* rows, Index count);
    void (*embed_affine)(const AffineView& w, Index row, float* out);
    void (*embed_dense)(const DenseView& w, Index row, float* out);

    void (*rms_norm)(const float* x, const float* weight, float eps, Index n, float* out);
    void (*norm_rope)(const float* x, const float* weight, float eps, Index n, const float* cos, const float* sin,
                      Index half, float* out);
    void (*gated_rms_norm)(const float* x, const float* z, const float* weight, float eps, Index n, float* out);
    void (*sigmoid_gate)(const float* x, const float* gate, Index n, float* out);
    void (*silu_mul)(const float* gate, const float* up, Index n, float* out);
    void (*softmax)(float* x, Index n);
    // out = sum over ranks of weights[r] * outputs[r * n ...], then + sigmoid(gate) * shared unless shared is null.
    void (*combine)(const float* outputs, const float* weights, Index ranks, const float* shared, float gate, Index n,
                    float* out);

    void (*to_f16)(const float* x, Index n, std::uint16_t* out);  // beyond the range: its largest value
    void (*from_f16)(const std::uint16_t* x, Index n, float* out);
    // What the keys of one segment give each row of queries; rows [tokens * heads, attention_row_floats(padded_dim)].
    void (*attend)(const AttentionWork& work, Index segment, float* rows);
    void (*merge_attention)(float* into, const float* of_next_segment, Index rows, Index padded_dim);
    void (*finish_attention)(const float* rows, Index row, Index head_dim, Index padded_dim, float* out);
    void (*conv)(const ConvWork& work);
    // unit_q = q / |q| / sqrt(n), unit_k = k / |k|, along = unit_q . unit_k
    void (*normalise_delta)(const float* q, const float* k, Index n, float* unit_q, float* unit_k, float* along);
    void (*delta)(const DeltaWork& work);

    // Reads every byte once and no more: the bandwidth that the products are measured against. Some sum of them.
    std::int32_t (*read_all)(const std::uint8_t* bytes, Index n);
};

}  // namespace flashmoe
