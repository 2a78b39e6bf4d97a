// Products with float32 activations, for what must not be rounded to int8, and the rows of an embedding.
// Include after a lane header and simd/math.hpp.
//
// Lane l sums columns l, l + 16, ...; a tile of rows gives each product the bits it would get alone.
#pragma once

#include "kernels/types.hpp"

namespace flashmoe::FLASHMOE_ISA {

// Rows of weights that meet a tile of rows of activations together: as many as have sums in registers.
constexpr int kExactOuts = kVectors / 8;

template <int Outs, int Rows>
struct ExactSums {
    F lanes[Outs][Rows];

    FLASHMOE_INLINE ExactSums() {
        for (int o = 0; o < Outs; ++o)
            for (int r = 0; r < Rows; ++r) lanes[o][r] = zero();
    }
    FLASHMOE_INLINE void add_products(const F (&w)[Outs], const FloatRow* rows, Index column, int n) {
        for (int r = 0; r < Rows; ++r) {
            const F x = load_up_to(rows[r].x + column, n);
            for (int o = 0; o < Outs; ++o) lanes[o][r] = fma(w[o], x, lanes[o][r]);
        }
    }
    FLASHMOE_INLINE void finish(const FloatRow* rows, Index n) const {
        for (int o = 0; o < Outs; ++o)
            for (int r = 0; r < Rows; ++r) rows[r].out[n + o] = sum(lanes[o][r]);
    }
};

// Calls body with an empty ExactSums, rows of activations and the first row of weights, until all have met.
template <class Body>
inline void for_tiles(Index first, Index last, const FloatRow* rows, Index count, const Body& body) {
    Index t = 0;
    for (; t + kTile <= count; t += kTile) {
        Index n = first;
        for (; n + kExactOuts <= last; n += kExactOuts) body(ExactSums<kExactOuts, kTile>(), rows + t, n);
        for (; n < last; ++n) body(ExactSums<1, kTile>(), rows + t, n);
    }
    for (; t < count; ++t)
        for (Index n = first; n < last; ++n) body(ExactSums<1, 1>(), rows + t, n);
}

// Calls step(weights, column) for each 16 columns of rows n .. n + Outs - 1.
template <int Bits, int Outs, class Step>
FLASHMOE_INLINE void affine_columns(const AffineView& w, Index n, const Step& step) {
    const std::uint8_t* codes = w.codes + n * w.row_bytes();
    const std::uint16_t *scales = w.scales + n * w.groups(), *biases = w.biases + n * w.groups();
    for (Index g = 0; g < w.groups(); ++g) {
        F scale[Outs], bias[Outs];
        for (int o = 0; o < Outs; ++o) {
            scale[o] = set1(from_bf16(scales[o * w.groups() + g]));
            bias[o] = set1(from_bf16(biases[o * w.groups() + g]));
            prefetch(codes + o * w.row_bytes() + 4096);
        }
        for (int i = 0; i < kGroup; i += 16, codes += 2 * Bits) {
            F weights[Outs];
            for (int o = 0; o < Outs; ++o)
                weights[o] = fma(load_codes<Bits>(codes + o * w.row_bytes()), scale[o], bias[o]);
            step(weights, g * kGroup + i);
        }
    }
}

template <int Bits>
inline void exact_affine_bits(const AffineView& w, Index first, Index last, const FloatRow* rows, Index count) {
    for_tiles(first, last, rows, count, [&]<int Outs, int Rows>(ExactSums<Outs, Rows> sums, const FloatRow* tile, Index n) {
        affine_columns<Bits, Outs>(w, n, [&](const F(&weights)[Outs], Index column) {
            sums.add_products(weights, tile, column, 16);
        });
        sums.finish(tile, n);
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
    for_tiles(first, last, rows, count, [&]<int Outs, int Rows>(ExactSums<Outs, Rows> sums, const FloatRow* tile, Index n) {
        for_lanes(w.in, [&](Index column, int lanes) {
            F weights[Outs];
            for (int o = 0; o < Outs; ++o) weights[o] = dense_weights(w, n + o, column, lanes);
            sums.add_products(weights, tile, column, lanes);
        });
        sums.finish(tile, n);
    });
}

inline void embed_affine(const AffineView& w, Index row, float* out) {
    const auto put = [out](const F(&weights)[1], Index column) { store(out + column, weights[0]); };
    if (w.bits == 4) affine_columns<4, 1>(w, row, put);
    else if (w.bits == 8) affine_columns<8, 1>(w, row, put);
    else affine_columns<2, 1>(w, row, put);
}

inline void embed_dense(const DenseView& w, Index row, float* out) {
    for_lanes(w.in, [&](Index column, int lanes) {
        store_up_to(out + column, dense_weights(w, row, column, lanes), lanes);
    });
}

}  // namespace flashmoe::FLASHMOE_ISA
