// AVX2 with the byte dot product of AVX-VNNI: what processors without AVX-512 have it for.
#define FLASHMOE_ISA avxvnni
#include "simd/avx2.hpp"
#include "simd/math.hpp"
// The lanes come first: the kernels are written against them.
#include "kernels/make_table.hpp"

namespace flashmoe {

// constinit: no start-up code of this instruction set may run unasked.
extern constinit const Kernels kernels_avxvnni = FLASHMOE_ISA::make_table("avxvnni");

}  // namespace flashmoe
