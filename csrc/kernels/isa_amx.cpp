// AVX-512 with tiles for the products of many rows.
#define FLASHMOE_ISA amx
#include "simd/avx512.hpp"
#include "simd/amx.hpp"
#include "simd/math.hpp"
// The lanes come first: the kernels are written against them.
#include "kernels/make_table.hpp"
#include "kernels/many_by_tiles.hpp"

namespace flashmoe {

// constinit: no start-up code of this instruction set may run unasked.
extern constinit const Kernels kernels_amx =
    FLASHMOE_ISA::make_table<FLASHMOE_ISA::ManyByTiles<FLASHMOE_ISA::AmxTiles>>("amx");

}  // namespace flashmoe
