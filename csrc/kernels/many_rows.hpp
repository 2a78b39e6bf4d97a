// Affine weights times many rows of int8 activations (kernels/affine.hpp has the arithmetic): panels of weights are
// unpacked once and meet up to 64 rows of activations, a block of them at a time with all dots of a group in registers.
#pragma once

#include "kernels/group_sums.hpp"
#include "kernels/panel.hpp"
#include "kernels/panel_memory.hpp"

namespace flashmoe::FLASHMOE_ISA {

constexpr int kBlockRows = kVectors >= 32 ? 8 : 4;
constexpr Index kFewRows = 8;

// The operands of a product of panels with some rows of activations.
struct PanelsProduct {
    const AffineView& matrix;
    Index n;  // the panels' first row
    const PanelGroup* weights;
    const GatheredRun& x;
    const QuantisedRow* rows;  // as gathered; here for their outputs
};

template <int Bits, int Rows, int Four = 0>
FLASHMOE_INLINE void dot_fours(const PanelGroup& w, const std::uint8_t* x, I (&dots)[Rows][kPanels]) {
    B codes[kPanels];
    for (int p = 0; p < kPanels; ++p) codes[p] = load_bytes(w.codes[p][Four]);
    for (int r = 0; r < Rows; ++r) {
        const B four = repeat_four(x + r * kGroup + 4 * Four);
        for (int p = 0; p < kPanels; ++p) dots[r][p] = dot<Bits>(dots[r][p], codes[p], four);
    }
    if constexpr (Four + 1 < kFours) dot_fours<Bits, Rows, Four + 1>(w, x, dots);
}

template <int Bits, int Rows>
FLASHMOE_INLINE void dot_group(const PanelGroup& w, const std::uint8_t* x, I (&dots)[Rows][kPanels]) {
    for (int r = 0; r < Rows; ++r)
        for (int p = 0; p < kPanels; ++p) dots[r][p] = zero_i();
    dot_fours<Bits, Rows>(w, x, dots);
}

// Of 16 rows of weights and one of activations, with its scale and the total of its codes.
template <bool First>
FLASHMOE_INLINE F with_dots(const float* sum, I dots, F wscale, F wbias, F scale, F total) {
    return fma(to_float(dots), mul(wscale, scale), fma(wbias, total, First ? zero() : load(sum)));
}

template <bool First, Then After, int Rows>
FLASHMOE_INLINE void add_block(const I (&dots)[Rows][kPanels], const PanelGroup& w, const float* floats, float* sums) {
    constexpr Index kFloats = Rows * kUnpackedRows;
    F scales[kPanels], biases[kPanels];
    for (int p = 0; p < kPanels; ++p) scales[p] = load(w.scales[p]), biases[p] = load(w.biases[p]);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
        const F scale = set1(floats[2 * r]), total = set1(floats[2 * r + 1]);
        for (int p = 0; p < kPanels; ++p, sums += kPanelRows)
            put_sum<After>(sums, kFloats, with_dots<First>(sums, dots[r][p], scales[p], biases[p], scale, total));
    }
}

// The product with rows t .. t + Rows - 1.
template <int Bits, int Rows>
inline void multiply_block(const PanelsProduct& k, Index t) {
    SumSlots<Rows * kUnpackedRows> sums;
    sum_groups(sums, k.matrix.groups(), [&](Index g, float* to, bool first, Then after) {
        if (t == 0) prefetch_group<Bits>(k.matrix, k.n + kUnpackedRows, g);
        I dots[Rows][kPanels];
        dot_group<Bits>(k.weights[g], k.x.codes(g, t), dots);
        by_kind(first, after, [&]<bool First, Then After>() __attribute__((always_inline)) {
            add_block<First, After, Rows>(dots, k.weights[g], k.x.floats(g, t), to);
        });
    });
    for (int r = 0; r < Rows; ++r)
        for (int p = 0; p < kPanels; ++p)
            store(k.rows[t + r].out + k.n + p * kPanelRows, load(sums.slots[0] + (r * kPanels + p) * kPanelRows));
}

// Calls body(t, rows) for blocks of rows, `rows` a constant, until all have had their turn.
template <class Body>
FLASHMOE_INLINE void for_blocks(Index count, const Body& body) {
    Index t = 0;
    for (; t + kBlockRows <= count; t += kBlockRows) body.template operator()<kBlockRows>(t);
    if constexpr (kBlockRows > 4)
        for (; t + 4 <= count; t += 4) body.template operator()<4>(t);
    for (; t + 2 <= count; t += 2) body.template operator()<2>(t);
    if (t < count) body.template operator()<1>(t);
}

struct Lanes {
    template <int Bits>
    static void multiply(const PanelsProduct& k, Index count) {
        for_blocks(count, [&]<int Rows>(Index t) { multiply_block<Bits, Rows>(k, t); });
    }
};

// The product with so few rows that all 16 sums of each stay in the first-level cache: groups in their order, each unpacked
// where the one before it lay.
template <int Bits>
inline void multiply_few(const PanelsProduct& k, Index count) {
    constexpr int kGroups = PanelCodes<Bits>::kGroups;
    alignas(64) float sums[kSums][kFewRows * kUnpackedRows];
    PanelGroup codes[kGroups], floats[kPanelGroups];
    const AffineView& w = k.matrix;
    for (Index g = 0; g < w.groups(); g += kPanelGroups) {
        const int groups = unpack_group_floats(w, k.n, g, floats);
        for (int i = 0; i < groups; ++i) {
            if (i % kGroups == 0)
                for (int p = 0; p < kPanels; ++p) unpack_codes<Bits>(w, k.n + p * kPanelRows, g + i, codes, p);
            prefetch_group<Bits>(w, k.n + kUnpackedRows, g + i);
            for_blocks(count, [&]<int Rows>(Index t) __attribute__((always_inline)) {
                I dots[Rows][kPanels];
                dot_group<Bits>(codes[i % kGroups], k.x.codes(g + i, t), dots);
                float* to = sums[i] + t * kUnpackedRows;
                if (g == 0) add_block<true, Then::keep>(dots, floats[i], k.x.floats(g + i, t), to);
                else add_block<false, Then::keep>(dots, floats[i], k.x.floats(g + i, t), to);
            });
        }
    }
    for (Index t = 0; t < count; ++t)
        for (int p = 0; p < kPanels; ++p)
            store(k.rows[t].out + k.n + p * kPanelRows,
                  folded(sums[0] + t * kUnpackedRows + p * kPanelRows, kFewRows * kUnpackedRows, w.groups()));
}

// Who multiplies unpacked panels with rows of activations: `Unit::multiply<Bits>(product, count)`.
template <class Unit>
struct ManyRows {
    // Returns the first row of weights that it has left: fewer than kUnpackedRows.
    template <int Bits>
    static Index rows(const AffineView& w, Index first, Index last, const QuantisedRow* rows, Index count,
                      const std::uint8_t* gathered) {
        const Index done = last - (last - first) % kUnpackedRows;
        if (done == first) return done;
        const Index of_weights = w.groups() * static_cast<Index>(sizeof(PanelGroup));
        std::uint8_t* memory = panel_memory(of_weights + (gathered ? 0 : gathered_bytes(w.in, count)));
        auto* weights = reinterpret_cast<PanelGroup*>(memory);
        if (!gathered) {
            for (Index t = 0; t < count; ++t) gather_row(rows[t], w.in, Bits, t, count, memory + of_weights);
            gathered = memory + of_weights;
        }
        Unit unit;
        for (Index t = 0; t < count; t += kRowsTogether) {
            const Index together = count - t < kRowsTogether ? count - t : kRowsTogether;
            const GatheredRun x(gathered, together);
            for (Index n = first; n < done; n += kUnpackedRows) {
                const PanelsProduct product{w, n, weights, x, rows + t};
                if (together <= kFewRows) multiply_few<Bits>(product, together);
                else {
                    unpack_panels<Bits>(w, n, weights);
                    unit.template multiply<Bits>(product, together);
                }
            }
            gathered += GatheredRun::bytes(w.groups(), together);
        }
        return done;
    }
};

using ManyByLanes = ManyRows<Lanes>;

}  // namespace flashmoe::FLASHMOE_ISA
