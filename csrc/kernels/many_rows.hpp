// Affine weights times many rows of int8 activations (kernels/affine.hpp has the arithmetic): a panel of weights is
// unpacked once for up to 64 rows, four of which share each load of it.
#pragma once

#include "kernels/panel.hpp"

namespace flashmoe::FLASHMOE_ISA {

constexpr Index kManyRows = 4;       // from here on unpacking pays
constexpr Index kRowsTogether = 64;  // their sums take 64 KiB

template <int Bits, int Rows, int J = 0>
FLASHMOE_INLINE void dot_fours(const std::uint8_t (*codes)[64], const std::int8_t* const (&x)[Rows], Index at,
                               I (&dots)[Rows]) {
    const B four = load_bytes(codes[J]);
    for (int r = 0; r < Rows; ++r) dots[r] = dot<Bits>(dots[r], four, repeat_four(x[r] + at + 4 * J));
    if constexpr (J < 3) dot_fours<Bits, Rows, J + 1>(codes, x, at, dots);
}

// Adds to the sums of `Rows` rows what the panel gives; its first group is group g of the matrix.
template <int Bits, int Rows>
inline void add_panel(const Panel<Bits>& panel, Index g, const QuantisedRow* rows, PanelSums* sums) {
    for (int at = 0; at < panel.groups; ++at) {
        I dots[Rows];
        const std::int8_t* x[Rows];
        for (int r = 0; r < Rows; ++r) {
            dots[r] = zero_i();
            x[r] = rows[r].codes + Panel<Bits>::fours(g + at, 0);
        }
        for (int j = 0; j < kFours; j += 4)
            dot_fours<Bits, Rows>(panel.codes[at] + j, x, Panel<Bits>::fours(0, j), dots);
        for (int r = 0; r < Rows; ++r)
            panel.add(at, dots[r], rows[r].scales[g + at], rows[r].sums[g + at], g == 0, sums[r][at]);
    }
}

template <int Bits>
inline void panel_times_rows(const AffineView& w, Index n, const QuantisedRow* rows, Index count) {
    Panel<Bits> panel;
    alignas(64) PanelSums sums[kRowsTogether];
    for (Index g = 0; g < w.groups(); g += kPanelGroups) {
        panel.unpack(w, n, g);
        Index t = 0;
        for (; t + 4 <= count; t += 4) add_panel<Bits, 4>(panel, g, rows + t, sums + t);
        for (; t + 2 <= count; t += 2) add_panel<Bits, 2>(panel, g, rows + t, sums + t);
        if (t < count) add_panel<Bits, 1>(panel, g, rows + t, sums + t);
    }
    for (Index t = 0; t < count; ++t) fold(sums[t], w.groups(), rows[t].out + n);
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
