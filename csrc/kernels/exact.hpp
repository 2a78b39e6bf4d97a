// Products with float32 activations, for what must not be rounded to int8, and the rows of an embedding.
// Include after a lane header and simd/math.hpp.
//
// Lane l sums columns l, l + 16, ...; a tile of rows gives each row the bits it would get alone.
#pragma once

#include "kernels/types.hpp"

namespace flashmoe::FLASHMOE_ISA {

template <int Rows>
struct ExactSums {
    F lanes[Rows];

    ExactSums() {
        for (int r = 0; r < Rows; ++r) lanes[r] = zero();
    }
    void add_product(F w, const FloatRow* rows, Index column, int n) {
        for (int r = 0; r < Rows; ++r) lanes[r] = fma(w, load_up_to(rows[r].x + column, n), lanes[r]);
    }
    void finish(const FloatRow* rows, Index n) const {
        for (int r = 0; r < Rows; ++r) rows[r].out[n] = sum(lanes[r]);
    }
};

// Calls body with a compile-time tile of rows until all are done.
template <class Body>
inline void for_tiles(const FloatRow* rows, Index count, const Body& body) {
    ExactSums<kTile> four;
    Index t = 0;
    for (; t + kTile <= count; t += kTile) body(four, rows + t);
    ExactSums<1> one;
    for (; t < count; ++t) body(one, rows + t);
}

// Calls step(weights, column) for each 16 columns of row n.
template <int Bits, class Step>
inline void affine_columns(const AffineView& w, Index n, const Step& step) {
    const std::uint8_t* codes = w.codes + n * w.row_bytes();
    const std::uint16_t *scales = w.scales + n * w.groups(), *biases = w.biases + n * w.groups();
    for (Index g = 0; g < w.groups(); ++g) {
        const F scale = set1(from_bf16(scales[g])), bias = set1(from_bf16(biases[g]));
        prefetch(codes + 4096);
        for (int i = 0; i < kGroup; i += 16, codes += 2 * Bits)
            step(fma(load_codes<Bits>(codes), scale, bias), g * kGroup + i);
    }
}

template <int Bits>
inline void exact_affine_bits(const AffineView& w, Index first, Index last, const FloatRow* rows, Index count) {
    for_tiles(rows, count, [&]<int Rows>(const ExactSums<Rows>&, const FloatRow* tile) {
        for (Index n = first; n < last; ++n) {
            ExactSums<Rows> sums;
            affine_columns<Bits>(w, n, [&](F weights, Index column) { sums.add_product(weights, tile, column, 16); });
            sums.finish(tile, n);
        }
    });
}

inline void exact_affine_rows(const AffineView& w, Index first, Index last, const FloatRow* rows, Index count) {
    if (w.bits == 4) exact_affine_bits<4>(w, first, last, rows, count);
    else if (w.bits == 8) exact_affine_bits<8>(w, first, last, rows, count);
    else exact_affine_bits<2>(w, first, last, rows, count);
}

inline F dense_weights(const DenseView& w, Index n, Index column, int lanes) {
    const Index at = n * w.in + column;
    if (!w.bf16) return load_up_to(static_cast<const float*>(w.values) + at, lanes);
    const std::uint16_t* values = static_cast<const std::uint16_t*>(w.values) + at;
    prefetch(values + 2048);
    return lanes == 16 ? load_bf16(values) : load_bf16_n(values, lanes);
}

inline void dense_rows(const DenseView& w, Index first, Index last, const FloatRow* rows, Index count) {
    for_tiles(rows, count, [&]<int Rows>(const ExactSums<Rows>&, const FloatRow* tile) {
        for (Index n = first; n < last; ++n) {
            ExactSums<Rows> sums;
            for_lanes(w.in, [&](Index column, int lanes) {
                sums.add_product(dense_weights(w, n, column, lanes), tile, column, lanes);
            });
            sums.finish(tile, n);
        }
    });
}

inline void embed_affine(const AffineView& w, Index row, float* out) {
    const auto put = [out](F weights, Index column) { store(out + column, weights); };
    if (w.bits == 4) affine_columns<4>(w, row, put);
    else if (w.bits == 8) affine_columns<8>(w, row, put);
    else affine_columns<2>(w, row, put);
}

inline void embed_dense(const DenseView& w, Index row, float* out) {
    for_lanes(w.in, [&](Index column, int lanes) {
        store_up_to(out + column, dense_weights(w, row, column, lanes), lanes);
    });
}

}  // namespace flashmoe::FLASHMOE_ISA
