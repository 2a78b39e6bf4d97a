// Affine weights times int8 activations. Include after a lane header and simd/math.hpp.
//
// The arithmetic, the same for one row and for many: the dot product of a group of 64 codes is an integer, exact in any
// order. Group g belongs to sum g % 16 of the output; each sum takes, group after group, fma(bias, sum of the
// activations, .) and fma(dot, wscale * xscale, .); the 16 sums are folded 8, 4, 2 and 1 apart.
#pragma once

#include "kernels/few_rows.hpp"
#include "kernels/many_rows.hpp"

namespace flashmoe::FLASHMOE_ISA {

// Many::rows multiplies what rows of weights it can take together and returns the first that it left.
template <class Many, int Bits>
inline void affine_bits(const AffineView& w, Index first, Index last, const QuantisedRow* rows, Index count,
                        const std::uint8_t* gathered) {
    if (count >= kManyRows) first = Many::template rows<Bits>(w, first, last, rows, count, gathered);
    few_rows<Bits>(w, first, last, rows, count);
}

template <class Many>
inline void affine_rows(const AffineView& w, Index first, Index last, const QuantisedRow* rows, Index count,
                        const std::uint8_t* gathered) {
    if (w.bits == 4) affine_bits<Many, 4>(w, first, last, rows, count, gathered);
    else if (w.bits == 8) affine_bits<Many, 8>(w, first, last, rows, count, gathered);
    else affine_bits<Many, 2>(w, first, last, rows, count, gathered);
}

}  // namespace flashmoe::FLASHMOE_ISA
