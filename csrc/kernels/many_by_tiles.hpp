// Affine weights times many rows of int8 activations where the processor multiplies whole tiles: 16 rows of
// activations, a group of 64 columns and a panel's 16 rows of weights give 256 integer dots at once. Same arithmetic
// as kernels/many_rows.hpp, to the bit. `Tiles` is the hardware (simd/amx.hpp) or a test's model of it.
#pragma once

#include "kernels/many_rows.hpp"

namespace flashmoe::FLASHMOE_ISA {

constexpr Index kTileRows = 16;
constexpr Index kTilesRows = 2 * kTileRows;  // rows of activations that meet the panels together

template <class Tiles>
class ByTiles {
public:
    template <int Bits>
    void multiply(const PanelsProduct& k, Index count) {
        for (Index t = 0; t < count; t += kTilesRows) {
            const Index rows = count - t < kTilesRows ? count - t : kTilesRows;
            sum_groups(sums_, k.matrix.groups(), [&](Index g, float* to, bool first, Then after) {
                if (t == 0) prefetch_group<Bits>(k.matrix, k.n + kUnpackedRows, g);
                dots(k.weights[g], k.x.codes(g, t), rows);
                by_kind(first, after, [&]<bool First, Then After>() {
                    add<First, After>(k.weights[g], k.x.floats(g, t), rows, to);
                });
            });
            for (int p = 0; p < kPanels; ++p)
                for (Index r = 0; r < rows; ++r)
                    store(k.rows[t + r].out + k.n + p * kPanelRows,
                          load(sums_.slots[0] + (p * kTilesRows + r) * kPanelRows));
        }
    }

private:
    void dots(const PanelGroup& w, const std::uint8_t* x, Index rows) {
        tiles_.template activations<0>(x);
        if (rows > kTileRows) tiles_.template activations<1>(x + kTileRows * kGroup);
        panel_dots<0>(w, rows);
        if constexpr (kPanels > 1) panel_dots<1>(w, rows);
    }

    template <int Panel>
    void panel_dots(const PanelGroup& w, Index rows) {
        tiles_.template weights<Panel>(w.codes[Panel]);
        tiles_.template multiply<0, Panel>();
        if (rows > kTileRows) tiles_.template multiply<1, Panel>();
        tiles_.template store<0, Panel>(dots_[Panel][0]);
        if (rows > kTileRows) tiles_.template store<1, Panel>(dots_[Panel][kTileRows]);
    }

    template <bool First, Then After>
    void add(const PanelGroup& w, const float* floats, Index rows, float* sums) {
        for (int p = 0; p < kPanels; ++p, sums += kTilesRows * kPanelRows) {
            const F scale = load(w.scales[p]), bias = load(w.biases[p]);
            for (Index r = 0; r < rows; ++r) {
                float* sum = sums + r * kPanelRows;
                put_sum<After>(sum, kTilesRows * kUnpackedRows,
                               with_dots<First>(sum, words_of(load_bytes(dots_[p][r])), scale, bias, set1(floats[2 * r]),
                                                set1(floats[2 * r + 1])));
            }
        }
    }

    alignas(64) std::int32_t dots_[kPanels][kTilesRows][kPanelRows];
    SumSlots<kTilesRows * kUnpackedRows> sums_;
    Tiles tiles_;
};

template <class Tiles>
using ManyByTiles = ManyRows<ByTiles<Tiles>>;

}  // namespace flashmoe::FLASHMOE_ISA
