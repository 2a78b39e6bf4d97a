// Sixteen rows of affine weights side by side: a lane is a row, so nothing is summed across lanes. They are unpacked into
// memory, once for many rows of activations, which are gathered group by group beside them.
// Include after a lane header and simd/math.hpp.
#pragma once

#include "kernels/types.hpp"

namespace flashmoe::FLASHMOE_ISA {

constexpr Index kPanelRows = 16, kPanelGroups = 16;
constexpr int kPanels = kVectors >= 32 ? 2 : 1;  // that share each load of activations
constexpr Index kUnpackedRows = kPanels * kPanelRows;
static_assert(kPanelsRows % kUnpackedRows == 0);
constexpr int kFours = kGroup / 4;  // times four columns in a group

// A vector of a row's codes holds 8 / Bits groups of columns, field after field of them: word after word of four bytes.
template <int Bits>
struct PanelCodes {
    static constexpr int kGroups = 8 / Bits;         // groups in one vector of a row's codes
    static constexpr int kWords = kFours / kGroups;  // words of four bytes in a group's codes
    static constexpr int kGroupBytes = 64 / kGroups;

    // Where the four columns `i` of group g lie in a row of activations.
    static constexpr Index fours(Index g, int i) {
        return g / kGroups * (kGroups * kGroup) + g % kGroups * (4 * kWords) + i / kWords * kGroup + i % kWords * 4;
    }
};

// One group of the panels, unpacked: codes [four of columns][row of weights][4], and a scale and a bias a row.
struct alignas(64) PanelGroup {
    std::uint8_t codes[kPanels][kFours][64];
    float scales[kPanels][kPanelRows], biases[kPanels][kPanelRows];
};

// Word `word` of 16 rows, as codes of the groups from `to` on.
template <int Bits, int Field = 0>
FLASHMOE_INLINE void store_fields_of(I words, int word, PanelGroup* to, int panel) {
    constexpr int kWords = PanelCodes<Bits>::kWords;
    store_bytes(to[word / kWords].codes[panel][Field * kWords + word % kWords], field<Bits, Field>(bytes_of(words)));
    if constexpr (Bits * (Field + 1) < 8) store_fields_of<Bits, Field + 1>(words, word, to, panel);
}

// The codes of rows n .. n + 15 in one vector of each, groups g, g + 1, ... to to[0], to[1], ... A function of its own, so
// that the transposition has the registers to itself.
template <int Bits>
[[gnu::noinline]] inline void unpack_codes(const AffineView& w, Index n, Index g, PanelGroup* to, int panel) {
    using Codes = PanelCodes<Bits>;
    const Index stride = w.row_bytes(), left = w.groups() - g;
    const std::uint8_t* codes = w.codes + n * stride + g * Codes::kGroupBytes;
    if (left >= Codes::kGroups) {
        transpose([&](int l) { return words_of(load_bytes(codes + l * stride)); },
                  [&](int word, I words) { store_fields_of<Bits>(words, word, to, panel); });
        return;
    }
    const int bytes = static_cast<int>(left) * Codes::kGroupBytes;
    transpose([&](int l) { return words_of(load_bytes_n(codes + l * stride, bytes)); },
              [&](int word, I words) {
                  if (word / Codes::kWords < left) store_fields_of<Bits>(words, word, to, panel);
              });
}

// Scales or biases of 16 rows and of `count` groups, a row a lane.
[[gnu::noinline]] inline void unpack_floats(const std::uint16_t* from, Index stride, int count, float* to) {
    constexpr Index kApart = static_cast<Index>(sizeof(PanelGroup) / sizeof(float));
    transpose([&](int l) { return bits(load_bf16_n(from + l * stride, count)); },
              [&](int g, I words) {
                  if (g < count) store(to + g * kApart, from_bits(words));
              });
}

// Asks for what unpack_codes reads.
template <int Bits>
FLASHMOE_INLINE void prefetch_codes(const AffineView& w, Index n, Index g) {
    for (Index l = 0; l < kPanelRows; ++l) prefetch(w.codes + (n + l) * w.row_bytes() + g * PanelCodes<Bits>::kGroupBytes);
}

// Asks for group g's part of rows n .. n + kUnpackedRows - 1: each line once over all groups.
template <int Bits>
FLASHMOE_INLINE void prefetch_group(const AffineView& w, Index n, Index g) {
    constexpr int kGroups = PanelCodes<Bits>::kGroups;
    for (int panel = 0; panel < kPanels; ++panel)
        if (g % kGroups == panel % kGroups) prefetch_codes<Bits>(w, n + panel * kPanelRows, g / kGroups * kGroups);
    prefetch(w.scales + n * w.groups() + g * kUnpackedRows);
    prefetch(w.biases + n * w.groups() + g * kUnpackedRows);
}

// Scales and biases of rows n .. n + kUnpackedRows - 1, groups g and up to 15 after it; returns how many groups.
inline int unpack_group_floats(const AffineView& w, Index n, Index g, PanelGroup* to) {
    const Index groups = w.groups();
    const int count = static_cast<int>(groups - g < kPanelGroups ? groups - g : kPanelGroups);
    for (int panel = 0; panel < kPanels; ++panel, n += kPanelRows) {
        unpack_floats(w.scales + n * groups + g, groups, count, to->scales[panel]);
        unpack_floats(w.biases + n * groups + g, groups, count, to->biases[panel]);
    }
    return count;
}

// Rows n .. n + kUnpackedRows - 1, all groups.
template <int Bits>
inline void unpack_panels(const AffineView& w, Index n, PanelGroup* to) {
    for (Index g = 0; g < w.groups(); g += kPanelGroups) unpack_group_floats(w, n, g, to + g);
    for (int panel = 0; panel < kPanels; ++panel, n += kPanelRows)
        for (Index g = 0; g < w.groups(); g += PanelCodes<Bits>::kGroups) unpack_codes<Bits>(w, n, g, to + g, panel);
}

// A run of rows of activations by groups: the 64 codes of each row in the order of a panel's fours, then scale and total
// of each.
class GatheredRun {
public:
    static Index bytes(Index groups, Index count) { return groups * group_bytes(count) + kSpare; }

    GatheredRun(const std::uint8_t* memory, Index count) : memory_(memory), group_bytes_(group_bytes(count)), count_(count) {}

    template <int Bits>
    static void gather(const QuantisedRow& row, Index groups, Index t, Index count, std::uint8_t* memory) {
        constexpr int kPart = 4 * PanelCodes<Bits>::kWords;  // bytes that lie together
        const Index stride = group_bytes(count);
        for (Index g = 0; g < groups; ++g, memory += stride) {
            for (int i = 0; i < kFours; i += PanelCodes<Bits>::kWords)
                __builtin_memcpy(memory + t * kGroup + 4 * i, row.codes + PanelCodes<Bits>::fours(g, i), kPart);
            const float floats[2] = {row.scales[g], row.sums[g]};
            __builtin_memcpy(memory + count * kGroup + t * 8, floats, 8);
        }
    }

    FLASHMOE_INLINE const std::uint8_t* codes(Index g, Index t) const { return memory_ + g * group_bytes_ + t * kGroup; }
    FLASHMOE_INLINE const float* floats(Index g, Index t) const {
        return reinterpret_cast<const float*>(memory_ + g * group_bytes_ + count_ * kGroup) + 2 * t;
    }

private:
    static constexpr Index kSpare = 16 * kGroup;  // tiles read 16 rows, of which the last may be none
    static Index group_bytes(Index count) { return (count * (kGroup + 8) + 63) / 64 * 64; }

    const std::uint8_t* memory_;
    Index group_bytes_, count_;
};

inline Index gathered_bytes(Index columns, Index count) {
    const Index groups = columns / kGroup, rest = count % kRowsTogether;
    return count / kRowsTogether * GatheredRun::bytes(groups, kRowsTogether) +
           (rest ? GatheredRun::bytes(groups, rest) : 0);
}

inline void gather_row(const QuantisedRow& row, Index columns, int bits, Index t, Index count, std::uint8_t* to) {
    const Index groups = columns / kGroup, in_run = t % kRowsTogether, left = count - (t - in_run);
    const Index together = left < kRowsTogether ? left : kRowsTogether;
    to += t / kRowsTogether * GatheredRun::bytes(groups, kRowsTogether);
    if (bits == 4) GatheredRun::gather<4>(row, groups, in_run, together, to);
    else if (bits == 8) GatheredRun::gather<8>(row, groups, in_run, together, to);
    else GatheredRun::gather<2>(row, groups, in_run, together, to);
}

}  // namespace flashmoe::FLASHMOE_ISA
