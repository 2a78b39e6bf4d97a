// Activations as int8, a scale a group of 64. Include after a lane header and simd/math.hpp.
#pragma once

#include "kernels/types.hpp"

namespace flashmoe::FLASHMOE_ISA {

// A NaN or an infinity in a group makes its scale not finite, and so every product with the row.
inline void quantise_row(const float* x, Index k, std::int8_t* codes, float* scales, float* sums) {
    const I magnitude = set1_i(0x7fffffff);
    const F magic = set1(0x1.8p23f);  // adding it rounds to an integer, half to even
    for (Index g = 0; g < k / kGroup; ++g, x += kGroup, codes += kGroup) {
        I largest = zero_i();  // of the bits: ordered as the magnitudes are, NaN above all
        for (int i = 0; i < kGroup; i += 16) largest = max(largest, both(bits(load(x + i)), magnitude));
        const I largest_bits = set1_i(max_lane(largest));
        float lanes[16];
        store(lanes, div(from_bits(largest_bits), set1(127.0f)));
        scales[g] = lanes[0];
        const F scale = set1(lanes[0] == 0.0f ? 1.0f : lanes[0]);
        I total = zero_i();
        for (int i = 0; i < kGroup; i += 16) {
            const I code = sub(bits(add(div(load(x + i), scale), magic)), bits(magic));
            const I held = max(set1_i(-127), min(set1_i(127), code));
            store_i8(codes + i, held);
            total = add(total, held);
        }
        sums[g] = scales[g] * static_cast<float>(sum(total));
    }
}

template <int Bits>
inline void split_groups(const std::int8_t* codes, Index first, Index groups, std::int8_t* row) {
    constexpr Index fields = 8 / Bits;  // and groups in a vector of weights
    for (Index g = first; g < first + groups; ++g, codes += kGroup)
        store_fields<Bits>(row + g / fields * (fields * kGroup) + g % fields * (kGroup / fields), load_bytes(codes));
}

inline void split_codes(const std::int8_t* codes, Index first, Index groups, int bits, std::int8_t* row) {
    if (bits == 4) split_groups<4>(codes, first, groups, row);
    else split_groups<2>(codes, first, groups, row);
}

}  // namespace flashmoe::FLASHMOE_ISA
