// Affine weights times many rows of int8 activations where the processor multiplies whole tiles: 16 rows of
// activations, a group of 64 columns and a panel's 16 rows of weights give 256 integer dots at once. Same arithmetic
// as kernels/many_rows.hpp, to the bit. `Tiles` is the hardware (simd/amx.hpp) or a test's model of it.
#pragma once

#include "kernels/many_rows.hpp"
#include "kernels/tile_memory.hpp"

namespace flashmoe::FLASHMOE_ISA {

constexpr Index kTileRows = 16;
constexpr Index kTileThreshold = 8;  // rows of activations; fewer leave too much of a tile empty

// Activations as tiles: [group][row][64 codes in the order of a panel's vectors].
template <int Bits>
inline void gather_tiles(const QuantisedRow* rows, Index count, Index groups, std::int8_t* to) {
    constexpr int kPart = 4 * PanelCodes<Bits>::kWords;  // bytes that lie together
    for (Index g = 0; g < groups; ++g)
        for (Index t = 0; t < count; ++t) {
            std::int8_t* tile_row = to + (g * kRowsTogether + t) * kGroup;
            for (int i = 0; i < kFours; i += PanelCodes<Bits>::kWords)
                __builtin_memcpy(tile_row + 4 * i, rows[t].codes + PanelCodes<Bits>::fours(g, i), kPart);
        }
}

// A panel's codes as tiles: [fours of columns][rows of weights][4], one a group.
using WeightTiles = std::uint8_t[kPanelGroups][kFours][64];

template <int Bits, int Group = 0, int Four = 0>
FLASHMOE_INLINE void store_tiles(const PanelCodes<Bits>& panel, std::uint8_t (*tiles)[kFours][64]) {
    store_bytes(tiles[Group][Four], panel.template four<Group, Four>());
    if constexpr (Four + 1 < kFours) store_tiles<Bits, Group, Four + 1>(panel, tiles);
    else if constexpr (Group + 1 < PanelCodes<Bits>::kGroups) store_tiles<Bits, Group + 1>(panel, tiles);
}

// dots[row of activations][row of weights] of one group; `x` holds up to kRowsTogether rows.
template <class Tiles, int N = 0>
FLASHMOE_INLINE void tile_dots(Tiles& tiles, const std::int8_t* x, Index count, std::int32_t (*dots)[kPanelRows]) {
    if (N * kTileRows >= count) return;
    tiles.template multiply<N>(x + N * kTileRows * kGroup);
    if constexpr ((N + 1) * kTileRows < kRowsTogether) tile_dots<Tiles, N + 1>(tiles, x, count, dots);
    tiles.template store<N>(dots[N * kTileRows]);
}

template <class Tiles, int Bits>
inline void panel_times_tiles(Tiles& tiles, const AffineView& w, Index n, const std::int8_t* x,
                              const QuantisedRow* rows, Index count) {
    alignas(64) WeightTiles codes;
    alignas(64) float memory[kPanelGroups * kRowsTogether * kPanelRows];
    alignas(64) std::int32_t dots[kRowsTogether][kPanelRows];
    const PanelSums sums{memory, count, w.groups(), n};
    for (Index g = 0; g < w.groups(); g += kPanelGroups) {
        const PanelFloats floats(w, n, g);
        for (int at = 0; at < floats.groups; at += PanelCodes<Bits>::kGroups)
            store_tiles<Bits>(PanelCodes<Bits>(w, n, g + at, floats.groups - at), codes + at);
        for (int at = 0; at < floats.groups; ++at) {
            tiles.weights(codes[at]);
            tile_dots(tiles, x + (g + at) * kRowsTogether * kGroup, count, dots);
            const PanelSums::Fold fold = sums.fold_of(g + at);
            for (Index t = 0; t < count; ++t)
                sums.add_dots(words_of(load_bytes(dots[t])), floats.scales[at], floats.biases[at], g + at, rows, t, fold);
        }
    }
    sums.fold(rows);
}

template <class Tiles>
struct ManyByTiles {
    template <int Bits>
    static Index rows(const AffineView& w, Index first, Index last, const QuantisedRow* rows, Index count) {
        if (count < kTileThreshold) return ManyByLanes::rows<Bits>(w, first, last, rows, count);
        std::int8_t* x = tile_memory(w.in * kRowsTogether);
        Tiles tiles;
        for_rows_together(count, [&](Index t, Index together) {
            gather_tiles<Bits>(rows + t, together, w.groups(), x);
            for (Index n = first; n + kPanelRows <= last; n += kPanelRows)
                panel_times_tiles<Tiles, Bits>(tiles, w, n, x, rows + t, together);
        });
        return last - (last - first) % kPanelRows;
    }
};

}  // namespace flashmoe::FLASHMOE_ISA
