// Affine weights times many rows of int8 activations (kernels/affine.hpp has the arithmetic): a group of a panel of
// weights is unpacked once, into registers where there are enough, and meets up to 64 rows of activations.
#pragma once

#include "kernels/panel.hpp"

namespace flashmoe::FLASHMOE_ISA {

constexpr Index kManyRows = 4;       // from here on unpacking pays
constexpr Index kRowsTogether = 64;  // their sums take 64 KiB

template <int Bits, int Group, int Four = 0>
FLASHMOE_INLINE void unpack_group(const PanelCodes<Bits>& panel, B (&codes)[kFours]) {
    codes[Four] = panel.template four<Group, Four>();
    if constexpr (Four + 1 < kFours) unpack_group<Bits, Group, Four + 1>(panel, codes);
}

template <int Bits, int Rows, int Four = 0>
FLASHMOE_INLINE void dot_fours(const B (&codes)[kFours], const std::int8_t* const (&x)[Rows], I (&dots)[Rows]) {
    for (int r = 0; r < Rows; ++r)
        dots[r] = dot<Bits>(dots[r], codes[Four], repeat_four(x[r] + PanelCodes<Bits>::fours(0, Four)));
    if constexpr (Four + 1 < kFours) dot_fours<Bits, Rows, Four + 1>(codes, x, dots);
}

// One group of a panel.
template <int Bits>
struct PanelGroup {
    B codes[kFours];
    F scale, bias;
    Index g;  // of the matrix

    // Adds to the sums of `Rows` rows from row t on.
    template <int Rows>
    FLASHMOE_INLINE void add_to(const QuantisedRow* rows, Index t, const PanelSums& sums,
                                const PanelSums::Fold& fold) const {
        I dots[Rows];
        const std::int8_t* x[Rows];
        for (int r = 0; r < Rows; ++r) {
            dots[r] = zero_i();
            x[r] = rows[t + r].codes + PanelCodes<Bits>::fours(g, 0);
        }
        dot_fours<Bits, Rows>(codes, x, dots);
        for (int r = 0; r < Rows; ++r) sums.add_dots(dots[r], scale, bias, g, rows, t + r, fold);
    }

    FLASHMOE_INLINE void add_to_all(const QuantisedRow* rows, const PanelSums& sums) const {
        const PanelSums::Fold fold = sums.fold_of(g);
        Index t = 0;
        for (; t + 4 <= sums.count; t += 4) add_to<4>(rows, t, sums, fold);
        for (; t + 2 <= sums.count; t += 2) add_to<2>(rows, t, sums, fold);
        if (t < sums.count) add_to<1>(rows, t, sums, fold);
    }
};

// The groups that `codes` holds, of which the first is group g of the matrix and group `at` of the floats.
template <int Bits, int Group = 0>
FLASHMOE_INLINE void add_groups(const PanelCodes<Bits>& codes, const PanelFloats& floats, Index g, int at,
                                const QuantisedRow* rows, const PanelSums& sums) {
    if (at + Group >= floats.groups) return;
    PanelGroup<Bits> group;
    unpack_group<Bits, Group>(codes, group.codes);
    group.scale = floats.scales[at + Group];
    group.bias = floats.biases[at + Group];
    group.g = g + at + Group;
    group.add_to_all(rows, sums);
    if constexpr (Group + 1 < PanelCodes<Bits>::kGroups) add_groups<Bits, Group + 1>(codes, floats, g, at, rows, sums);
}

template <int Bits>
inline void panel_times_rows(const AffineView& w, Index n, const QuantisedRow* rows, Index count) {
    alignas(64) float memory[kPanelGroups * kRowsTogether * kPanelRows];
    const PanelSums sums{memory, count, w.groups(), n};
    for (Index g = 0; g < w.groups(); g += kPanelGroups) {
        const PanelFloats floats(w, n, g);
        for (int at = 0; at < floats.groups; at += PanelCodes<Bits>::kGroups) {
            const PanelCodes<Bits> codes(w, n, g + at, floats.groups - at);
            add_groups<Bits>(codes, floats, g, at, rows, sums);
        }
    }
    sums.fold(rows);
}

// Calls body(first of the rows together, how many) until all `count` are done.
template <class Body>
inline void for_rows_together(Index count, const Body& body) {
    for (Index t = 0; t < count; t += kRowsTogether)
        body(t, count - t < kRowsTogether ? count - t : kRowsTogether);
}

struct ManyByLanes {
    // Returns the first row of weights that it has left: fewer than 16.
    template <int Bits>
    static Index rows(const AffineView& w, Index first, Index last, const QuantisedRow* rows, Index count) {
        for_rows_together(count, [&](Index t, Index together) {
            for (Index n = first; n + kPanelRows <= last; n += kPanelRows)
                panel_times_rows<Bits>(w, n, rows + t, together);
        });
        return last - (last - first) % kPanelRows;
    }
};

}  // namespace flashmoe::FLASHMOE_ISA
