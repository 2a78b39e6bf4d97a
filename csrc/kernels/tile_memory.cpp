#include "kernels/tile_memory.hpp"

#include "backend/memory.hpp"

namespace flashmoe {

std::int8_t* tile_memory(Index n) {
    thread_local AlignedArray<std::int8_t> memory;
    return memory.reserve(n);
}

}  // namespace flashmoe
