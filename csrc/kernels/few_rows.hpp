// Affine weights times a few rows of int8 activations (kernels/affine.hpp has the arithmetic): a row of weights after
// the other, as they stream from memory. A lane sums four columns, then dots of 16 groups are folded together until a
// lane is a group.
#pragma once

#include "kernels/types.hpp"

namespace flashmoe::FLASHMOE_ISA {

// How far ahead of the weights' stream to ask for memory, and one line in how many: the hardware follows the stream
// within a page of 4 KiB, what it needs is the page's start. docs/measurements/performance.md has the figures.
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
        for (int r = 0; r < Rows; ++r) sums_[r] = zero();
    }

    FLASHMOE_INLINE void run(Index groups) {
        Index g = 0;
        for (; g + 16 <= groups; g += 16) step<16, true>(g, 16);
        const int left = static_cast<int>(groups - g);
        if (left == 8) step<8, true>(g, 8);
        else if (left > 8) step<16, false>(g, left);
        else if (left > 0) step<8, false>(g, left);
    }

    FLASHMOE_INLINE void finish(Index n) const {
        for (int r = 0; r < Rows; ++r) rows_[r].out[n] = sum(sums_[r]);
    }

private:
    static constexpr int kGroups = 8 / Bits;  // groups in one vector of codes
    static constexpr int kGroupBytes = 64 / kGroups;

    // `left` of `Groups` groups; what lies beyond them is never read and counts as zero.
    template <int Groups, bool Whole>
    FLASHMOE_INLINE void step(Index g, int left) {
        constexpr int kQuarters = (Groups / kGroups + 3) / 4;
        I quarters[Rows][4];
        for (int q = 0; q < kQuarters; ++q) {
            I dots[Rows][4];
            for (int i = 0; i < 4; ++i) {
                const int at = (4 * q + i) * kGroups;
                vector<Whole>(g, at, at < Groups ? left : 0, dots, i);
            }
            for (int r = 0; r < Rows; ++r) quarters[r][q] = quarter_sums(dots[r][0], dots[r][1], dots[r][2], dots[r][3]);
        }
        constexpr bool kFull = Whole && Groups == 16;
        const F wscale = kFull ? load_bf16(scales_ + g) : load_bf16_n(scales_ + g, left);
        const F wbias = kFull ? load_bf16(biases_ + g) : load_bf16_n(biases_ + g, left);
        for (int r = 0; r < Rows; ++r) {
            const F scale = mul(wscale, load(rows_[r].scales + g));
            sums_[r] = fma(wbias, load(rows_[r].sums + g), sums_[r]);
            sums_[r] = fma(to_float(group_sums<kQuarters>(quarters[r])), scale, sums_[r]);
        }
    }

    template <bool Whole>
    FLASHMOE_INLINE void vector(Index g, int at, int left, I (&dots)[Rows][4], int i) {
        for (int r = 0; r < Rows; ++r) dots[r][i] = zero_i();
        if (at >= left) return;
        const std::uint8_t* codes = codes_ + (g + at) * kGroupBytes;
        if (Whole && i % kPrefetchVectors == 0) prefetch(codes + kPrefetchBytes);
        const B packed = Whole ? load_bytes(codes) : load_bytes_n(codes, (left - at) * kGroupBytes);
        for (int r = 0; r < Rows; ++r)
            dots[r][i] = dot_fields<Bits>(zero_i(), packed, rows_[r].codes + (g + at) * kGroup);
    }

    template <int Quarters>
    FLASHMOE_INLINE static I group_sums(const I (&q)[4]) {
        const I none = zero_i();
        if constexpr (Bits == 2) return in_order<2>(q[0]);
        else if constexpr (Bits == 4) return in_order<4>(quarter_pairs(q[0], Quarters > 1 ? q[1] : none));
        else return quarter_pairs(quarter_pairs(q[0], q[1]), Quarters > 2 ? quarter_pairs(q[2], q[3]) : none);
    }

    const std::uint8_t* codes_;
    const std::uint16_t *scales_, *biases_;
    const QuantisedRow* rows_;
    F sums_[Rows];
};

template <int Bits, int Rows>
inline void few_rows_tile(const AffineView& w, Index first, Index last, const QuantisedRow* rows) {
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
inline void few_rows(const AffineView& w, Index first, Index last, const QuantisedRow* rows, Index count) {
    Index t = 0;
    for (; t + 2 <= count; t += 2) few_rows_tile<Bits, 2>(w, first, last, rows + t);
    if (t < count) few_rows_tile<Bits, 1>(w, first, last, rows + t);
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

}  // namespace flashmoe::FLASHMOE_ISA
