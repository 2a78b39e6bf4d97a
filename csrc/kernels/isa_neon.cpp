#include "simd/neon.hpp"
#include "simd/math.hpp"
// The lanes come first: the kernels are written against them.
#include "kernels/make_table.hpp"

namespace flashmoe {

// constinit: no start-up code of this instruction set may run unasked.
extern constinit const Kernels kernels_neon = FLASHMOE_ISA::make_table("neon");

}  // namespace flashmoe
