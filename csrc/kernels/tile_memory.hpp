// Memory of the calling thread for activations laid out as tiles. Compiled for the baseline, so that no code of the
// standard library is compiled for an instruction set that this processor may lack.
#pragma once

#include "kernels/types.hpp"

namespace flashmoe {

// At least n bytes, 64-byte aligned, undefined content; the same memory at every call that is not larger.
std::int8_t* tile_memory(Index n);

}  // namespace flashmoe
