// Sixteen rows of affine weights unpacked side by side: a lane is a row, so nothing is summed across lanes.
// Include after a lane header and simd/math.hpp.
#pragma once

#include "kernels/types.hpp"

namespace flashmoe::FLASHMOE_ISA {

constexpr Index kPanelRows = 16, kPanelGroups = 16;
constexpr int kFours = kGroup / 4;  // times four columns in a group

// The sums of one row of activations: [group % 16][row of the panel].
using PanelSums = float[kPanelGroups][kPanelRows];

// Up to 16 groups of 16 rows. Vector i of a group holds four columns of it, a row a lane.
template <int Bits>
struct Panel {
    alignas(64) std::uint8_t codes[kPanelGroups][kFours][64];
    F scales[kPanelGroups], biases[kPanelGroups];
    int groups;

    static constexpr int kGroups = 8 / Bits;         // groups in one vector of a row's codes
    static constexpr int kWords = kFours / kGroups;  // words of four bytes in a group's codes

    // Where the four columns of vector i of group g lie in a row of activations.
    static constexpr Index fours(Index g, int i) {
        return g / kGroups * (kGroups * kGroup) + g % kGroups * (4 * kWords) + i / kWords * kGroup + i % kWords * 4;
    }

    // Groups g, g + 1, ... of rows n .. n + 15.
    void unpack(const AffineView& w, Index n, Index g) {
        const Index left = w.groups() - g;
        groups = static_cast<int>(left < kPanelGroups ? left : kPanelGroups);
        unpack_floats(w.scales + n * w.groups() + g, w.groups(), scales);
        unpack_floats(w.biases + n * w.groups() + g, w.groups(), biases);
        const std::uint8_t* from = w.codes + n * w.row_bytes() + g * kGroupBytes;
        for (int at = 0; at < groups; at += kGroups, from += 64) {
            const int bytes = (groups - at) * kGroupBytes;
            I words[16];
            for (int l = 0; l < 16; ++l) {
                const std::uint8_t* row = from + l * w.row_bytes();
                prefetch(row + kPanelRows * w.row_bytes());  // the panel after this one, while this one is used
                words[l] = words_of(bytes >= 64 ? load_bytes(row) : load_bytes_n(row, bytes));
            }
            transpose(words);
            for (int j = 0; j < 16; ++j) store_fields<0>(words[j], codes[at + j / kWords], j % kWords);
        }
    }

    // sum = fma(dots, scales * scale, fma(biases, total, sum)), for group `at` and a row of activations with this
    // scale and total in the group. The sum is new in the first 16 groups.
    FLASHMOE_INLINE void add(int at, I dots, float scale, float total, bool is_new, float* sum) const {
        const F biased = fma(biases[at], set1(total), is_new ? zero() : load(sum));
        store(sum, fma(to_float(dots), mul(scales[at], set1(scale)), biased));
    }

private:
    static constexpr int kGroupBytes = 64 / kGroups;

    void unpack_floats(const std::uint16_t* from, Index stride, F* to) {
        I words[16];
        for (int l = 0; l < 16; ++l) words[l] = bits(load_bf16_n(from + l * stride, groups));
        transpose(words);
        for (int g = 0; g < 16; ++g) to[g] = from_bits(words[g]);
    }

    template <int J>
    FLASHMOE_INLINE static void store_fields(I words, std::uint8_t (*to)[64], int word) {
        store_bytes(to[J * kWords + word], field<Bits, J>(bytes_of(words)));
        if constexpr (Bits * (J + 1) < 8) store_fields<J + 1>(words, to, word);
    }
};

// out = the sums folded as sum() folds lanes; those from `used` on count as zero.
inline void fold(const PanelSums& sums, Index used, float* out) {
    const auto get = [&](int g) { return g < used ? load(sums[g]) : zero(); };
    F folded[8];
    for (int g = 0; g < 8; ++g) folded[g] = add(get(g), get(g + 8));
    for (int half = 4; half > 0; half /= 2)
        for (int g = 0; g < half; ++g) folded[g] = add(folded[g], folded[g + half]);
    store(out, folded[0]);
}

}  // namespace flashmoe::FLASHMOE_ISA
