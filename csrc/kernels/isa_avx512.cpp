#include "simd/avx512.hpp"
#include "simd/math.hpp"
// The lanes come first: the kernels are written against them.
#include "kernels/make_table.hpp"

namespace flashmoe {

// constinit: no start-up code of this instruction set may run unasked.
extern constinit const Kernels kernels_avx512 = FLASHMOE_ISA::make_table("avx512");

}  // namespace flashmoe
