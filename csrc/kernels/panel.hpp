// Sixteen rows of affine weights side by side: a lane is a row, so nothing is summed across lanes.
// Include after a lane header and simd/math.hpp.
#pragma once

#include "kernels/types.hpp"

namespace flashmoe::FLASHMOE_ISA {

constexpr Index kPanelRows = 16, kPanelGroups = 16;
constexpr int kFours = kGroup / 4;  // times four columns in a group

// The codes of 16 rows in one vector of each, that is 8 / Bits groups of columns.
template <int Bits>
struct PanelCodes {
    static constexpr int kGroups = 8 / Bits;         // groups in one vector of a row's codes
    static constexpr int kWords = kFours / kGroups;  // words of four bytes in a group's codes
    static constexpr int kGroupBytes = 64 / kGroups;

    I words[16];  // word after word of the vectors, a row a lane

    // Of rows n .. n + 15 from group g on, of which there are `left`.
    FLASHMOE_INLINE PanelCodes(const AffineView& w, Index n, Index g, Index left) {
        const std::uint8_t* row = w.codes + n * w.row_bytes() + g * kGroupBytes;
        const int bytes = static_cast<int>(left) * kGroupBytes;
        for (int l = 0; l < 16; ++l, row += w.row_bytes()) {
            prefetch(row + kPanelRows * w.row_bytes());  // the panel after this one, while this one is used
            words[l] = words_of(bytes >= 64 ? load_bytes(row) : load_bytes_n(row, bytes));
        }
        transpose(words);
    }

    // Four columns of group `Group` of these, a row a lane. Fours(g, i) says which.
    template <int Group, int Four>
    FLASHMOE_INLINE B four() const {
        return field<Bits, Four / kWords>(bytes_of(words[Group * kWords + Four % kWords]));
    }

    // Where the four columns `i` of group g lie in a row of activations.
    static constexpr Index fours(Index g, int i) {
        return g / kGroups * (kGroups * kGroup) + g % kGroups * (4 * kWords) + i / kWords * kGroup + i % kWords * 4;
    }
};

// Scales and biases of 16 rows and up to 16 groups, a row a lane.
struct PanelFloats {
    F scales[kPanelGroups], biases[kPanelGroups];
    int groups;

    // Groups g, g + 1, ... of rows n .. n + 15.
    PanelFloats(const AffineView& w, Index n, Index g) {
        const Index left = w.groups() - g;
        groups = static_cast<int>(left < kPanelGroups ? left : kPanelGroups);
        unpack(w.scales + n * w.groups() + g, w.groups(), scales);
        unpack(w.biases + n * w.groups() + g, w.groups(), biases);
    }

private:
    void unpack(const std::uint16_t* from, Index stride, F* to) {
        I words[16];
        for (int l = 0; l < 16; ++l) words[l] = bits(load_bf16_n(from + l * stride, groups));
        transpose(words);
        for (int g = 0; g < 16; ++g) to[g] = from_bits(words[g]);
    }
};

// The sums of a panel with some rows of activations: [group % 16][row of activations][row of the panel].
struct PanelSums {
    float* sums;
    Index count;

    FLASHMOE_INLINE float* at(int group, Index row) const { return sums + (group * count + row) * kPanelRows; }

    // sum = fma(dots, wscale * scale, fma(wbias, total, sum)) for a row of activations with this scale and total in
    // the group. The sum is new in the first 16 groups.
    FLASHMOE_INLINE static void add_dots(I dots, F wscale, F wbias, float scale, float total, bool is_new, float* sum) {
        const F biased = fma(wbias, set1(total), is_new ? zero() : load(sum));
        store(sum, fma(to_float(dots), mul(wscale, set1(scale)), biased));
    }

    // rows[t].out[n ...] = the row's sums folded as sum() folds lanes; those from `used` on count as zero.
    void fold(Index used, Index n, const QuantisedRow* rows) const {
        for (Index t = 0; t < count; ++t) {
            const auto get = [&](int g) { return g < used ? load(at(g, t)) : zero(); };
            F folded[8];
            for (int g = 0; g < 8; ++g) folded[g] = add(get(g), get(g + 8));
            for (int half = 4; half > 0; half /= 2)
                for (int g = 0; g < half; ++g) folded[g] = add(folded[g], folded[g + half]);
            store(rows[t].out + n, folded[0]);
        }
    }
};

}  // namespace flashmoe::FLASHMOE_ISA
