// Memory of the calling thread for what a product of many rows unpacks. Compiled for the baseline, so that no code of
// the standard library is compiled for an instruction set that this processor may lack.
#pragma once

#include <cstdint>

#include "kernels/types.hpp"

namespace flashmoe {

// At least n bytes, 64-byte aligned, undefined content; the same memory at every call that is not larger.
std::uint8_t* panel_memory(Index n);

}  // namespace flashmoe
