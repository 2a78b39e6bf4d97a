// Affine weights times int8 activations. Include after a lane header and simd/math.hpp.
//
// 64 bytes of codes meet 64 activations a field: per vector one or more byte dots, one conversion to float, one fma by
// wscale * xscale of the lane's group. Lanes sum over the row; the bias terms sum apart, a group a lane. The order is
// the same whatever the number of rows, so a tile of rows gives each row the bits it would get alone.
#pragma once

#include "kernels/types.hpp"

namespace flashmoe::FLASHMOE_ISA {

// How far ahead of the weights' stream to ask for memory, and one line in how many: the hardware follows the stream
// within a page of 4 KiB, what it needs is the page's start. docs/performance.md has the figures.
constexpr int kPrefetchBytes = 8192, kPrefetchVectors = 4;

template <int Bits, int J = 0>
FLASHMOE_INLINE I dot_fields(I total, B packed, const std::int8_t* x) {
    total = dot<Bits>(total, field<Bits, J>(packed), load_bytes(x + 64 * J));
    if constexpr (Bits * (J + 1) < 8) return dot_fields<Bits, J + 1>(total, packed, x);
    else return total;
}

// The dot products of one row of weights with `Rows` rows of activations. Everything is inlined into the loop over
// rows: else the sums live in memory, which costs a quarter of the speed.
template <int Bits, int Rows>
class RowDot {
public:
    FLASHMOE_INLINE RowDot(const std::uint8_t* codes, const std::uint16_t* scales, const std::uint16_t* biases,
                           const QuantisedRow* rows)
        : codes_(codes), scales_(scales), biases_(biases), rows_(rows) {
        for (int r = 0; r < Rows; ++r) products_[r] = bias_terms_[r] = zero();
    }

    FLASHMOE_INLINE void run(Index groups) {
        Index g = 0;
        for (; g + 16 <= groups; g += 16) {
            begin(g, load_bf16(scales_ + g), load_bf16(biases_ + g));
            vectors<16 / kGroups>(g);
        }
        if (g + 8 <= groups) {
            begin(g, load_bf16_n(scales_ + g, 8), load_bf16_n(biases_ + g, 8));
            vectors<8 / kGroups>(g);
            g += 8;
        }
        if (g < groups) tail(g, static_cast<int>(groups - g));
    }

    FLASHMOE_INLINE void finish(Index n) const {
        for (int r = 0; r < Rows; ++r) rows_[r].out[n] = sum(add(products_[r], bias_terms_[r]));
    }

private:
    static constexpr int kGroups = 8 / Bits;  // groups in one vector of codes
    static constexpr int kGroupBytes = 64 / kGroups;

    FLASHMOE_INLINE void begin(Index g, F wscale, F wbias) {
        for (int r = 0; r < Rows; ++r) {
            spread_[r] = Spread<kGroups>(mul(wscale, load(rows_[r].scales + g)));
            bias_terms_[r] = fma(wbias, load(rows_[r].sums + g), bias_terms_[r]);
        }
    }

    FLASHMOE_INLINE void vector(Index g, int v, B packed) {
        for (int r = 0; r < Rows; ++r) {
            const I total = dot_fields<Bits>(zero_i(), packed, rows_[r].codes + (g + v * kGroups) * kGroup);
            products_[r] = fma(to_float(total), spread_[r].at(v), products_[r]);
        }
    }

    template <int Count, int V = 0>
    FLASHMOE_INLINE void vectors(Index g) {
        const std::uint8_t* at = codes_ + g * kGroupBytes + V * 64;
        if constexpr (V % kPrefetchVectors == 0) prefetch(at + kPrefetchBytes);
        vector(g, V, load_bytes(at));
        if constexpr (V + 1 < Count) vectors<Count, V + 1>(g);
    }

    // Fewer than 8 groups; what lies beyond them is never read and counts as zero.
    FLASHMOE_INLINE void tail(Index g, int groups) {
        begin(g, load_bf16_n(scales_ + g, groups), load_bf16_n(biases_ + g, groups));
        for (int v = 0; v * kGroups < groups; ++v)
            vector(g, v, load_bytes_n(codes_ + g * kGroupBytes + v * 64, groups * kGroupBytes - v * 64));
    }

    const std::uint8_t* codes_;
    const std::uint16_t *scales_, *biases_;
    const QuantisedRow* rows_;
    F products_[Rows], bias_terms_[Rows];
    Spread<kGroups> spread_[Rows];
};

template <int Bits, int Rows>
inline void affine_tile(const AffineView& w, Index first, Index last, const QuantisedRow* rows) {
    const Index groups = w.groups(), row_bytes = w.row_bytes();
    const std::uint8_t* codes = w.codes + first * row_bytes;
    const std::uint16_t *scales = w.scales + first * groups, *biases = w.biases + first * groups;
    for (Index n = first; n < last; ++n, codes += row_bytes, scales += groups, biases += groups) {
        RowDot<Bits, Rows> dot(codes, scales, biases, rows);
        dot.run(groups);
        dot.finish(n);
    }
}

template <int Bits>
inline void affine_bits(const AffineView& w, Index first, Index last, const QuantisedRow* rows, Index count) {
    Index t = 0;
    for (; t + kTile <= count; t += kTile) affine_tile<Bits, kTile>(w, first, last, rows + t);
    switch (count - t) {
        case 3: return affine_tile<Bits, 3>(w, first, last, rows + t);
        case 2: return affine_tile<Bits, 2>(w, first, last, rows + t);
        case 1: return affine_tile<Bits, 1>(w, first, last, rows + t);
        default: return;
    }
}

inline void affine_rows(const AffineView& w, Index first, Index last, const QuantisedRow* rows, Index count) {
    if (w.bits == 4) affine_bits<4>(w, first, last, rows, count);
    else if (w.bits == 8) affine_bits<8>(w, first, last, rows, count);
    else affine_bits<2>(w, first, last, rows, count);
}

inline std::int32_t read_all(const std::uint8_t* bytes, Index n) {
    I totals[4] = {zero_i(), zero_i(), zero_i(), zero_i()};
    for (Index i = 0; i + 256 <= n; i += 256)
        for (int j = 0; j < 4; ++j) {
            prefetch(bytes + i + 64 * j + kPrefetchBytes);
            const B x = load_bytes(bytes + i + 64 * j);
            totals[j] = dot<4>(totals[j], x, x);
        }
    return sum(add(add(totals[0], totals[1]), add(totals[2], totals[3])));
}

// A NaN or an infinity in a group makes its scale not finite, and so every product with the row.
inline void quantise_row(const float* x, Index k, std::int8_t* codes, float* scales, float* sums) {
    const I magnitude = set1_i(0x7fffffff);
    const F magic = set1(0x1.8p23f);  // adding it rounds to an integer, half to even
    for (Index g = 0; g < k / kGroup; ++g, x += kGroup, codes += kGroup) {
        I largest = zero_i();  // of the bits: ordered as the magnitudes are, NaN above all
        for (int i = 0; i < kGroup; i += 16) largest = max(largest, both(bits(load(x + i)), magnitude));
        const I largest_bits = set1_i(max_lane(largest));
        float lanes[16];
        store(lanes, div(from_bits(largest_bits), set1(127.0f)));
        scales[g] = lanes[0];
        const F scale = set1(lanes[0] == 0.0f ? 1.0f : lanes[0]);
        I total = zero_i();
        for (int i = 0; i < kGroup; i += 16) {
            const I code = sub(bits(add(div(load(x + i), scale), magic)), bits(magic));
            const I held = max(set1_i(-127), min(set1_i(127), code));
            store_i8(codes + i, held);
            total = add(total, held);
        }
        sums[g] = scales[g] * static_cast<float>(sum(total));
    }
}

}  // namespace flashmoe::FLASHMOE_ISA
