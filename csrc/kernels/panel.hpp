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

// The sums of a panel with some rows of activations: [group % 16][row of activations][row of the panel]. In the end
// they are folded 8, 4, 2 and 1 apart, as sum() folds lanes. Where the last round of groups is 16, or all there are and
// a power of two, each sum is folded as soon as it is complete: sum 12 into sum 4, and both into sum 0, which has sum 8.
struct PanelSums {
    float* sums;
    Index count, groups, n;  // rows of activations; groups of the matrix; the panel's first row

    // What becomes of the sum of a group. apart: floats between it and the sums that are added to it, in order.
    struct Fold {
        bool is_last = false;   // of the groups that belong to this sum
        bool is_whole = false;  // with it the product is complete
        bool lacks = false;     // the sum 8 apart is zero for want of groups
        int times = 0;
        Index apart[4] = {};
        Index to = 0;           // the last of them, where it then lies
    };

    bool folds_as_they_come() const {
        return groups % kPanelGroups == 0 || (groups < kPanelGroups && (groups & (groups - 1)) == 0);
    }

    Fold fold_of(Index g) const {
        Fold fold;
        if (g + kPanelGroups < groups || !folds_as_they_come()) return fold;
        const Index last = groups < kPanelGroups ? groups : kPanelGroups;
        fold.is_last = true;
        fold.is_whole = g == groups - 1;
        fold.lacks = last < kPanelGroups;
        for (Index half = last / 2, apart = half; half > 0 && g % kPanelGroups >= apart; half /= 2, apart += half)
            fold.apart[fold.times++] = fold.to = apart * count * kPanelRows;
        return fold;
    }

    // sum = fma(dots, wscale * scale, fma(wbias, total, sum)) for row t of the activations, with its scale and total in
    // group g. The sum is new in the first 16 groups.
    FLASHMOE_INLINE void add_dots(I dots, F wscale, F wbias, Index g, const QuantisedRow* rows, Index t,
                                  const Fold& fold) const {
        const QuantisedRow& row = rows[t];
        float* at = sums + (g % kPanelGroups * count + t) * kPanelRows;
        const F biased = fma(wbias, set1(row.sums[g]), g < kPanelGroups ? zero() : load(at));
        F sum = fma(to_float(dots), mul(wscale, set1(row.scales[g])), biased);
        if (fold.is_last) {
            if (fold.lacks) sum = add(sum, zero());
            for (int i = 0; i < fold.times; ++i) sum = add(load(at - fold.apart[i]), sum);
            at = fold.is_whole ? row.out + n : at - fold.to;
        }
        store(at, sum);
    }

    // Folds what was not folded as it came.
    void fold(const QuantisedRow* rows) const {
        if (folds_as_they_come()) return;
        for (Index t = 0; t < count; ++t) {
            const auto get = [&](int g) { return g < groups ? load(sums + (g * count + t) * kPanelRows) : zero(); };
            F folded[8];
            for (int g = 0; g < 8; ++g) folded[g] = add(get(g), get(g + 8));
            for (int half = 4; half > 0; half /= 2)
                for (int g = 0; g < half; ++g) folded[g] = add(folded[g], folded[g + half]);
            store(rows[t].out + n, folded[0]);
        }
    }
};

}  // namespace flashmoe::FLASHMOE_ISA
