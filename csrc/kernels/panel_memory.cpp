#include "kernels/panel_memory.hpp"

#include "backend/memory.hpp"

namespace flashmoe {

std::uint8_t* panel_memory(Index n) {
    thread_local AlignedArray<std::uint8_t> memory;
    return memory.reserve(n);
}

}  // namespace flashmoe
