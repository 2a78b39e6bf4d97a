// What a GatedDeltaNet layer keeps of a sequence between calls.
#pragma once

#include <vector>

#include "kernels/types.hpp"

namespace flashmoe {

struct DeltaState {
    Index channels, kernel, value_heads, key_dim, value_dim;
    std::vector<float> conv;       // [kernel - 1, channels], oldest first
    std::vector<float> recurrent;  // [value_heads, key_dim, value_dim]

    DeltaState(Index channels, Index kernel, Index value_heads, Index key_dim, Index value_dim)
        : channels(channels), kernel(kernel), value_heads(value_heads), key_dim(key_dim), value_dim(value_dim),
          conv(static_cast<std::size_t>((kernel - 1) * channels)),
          recurrent(static_cast<std::size_t>(value_heads * key_dim * value_dim)) {}
};

}  // namespace flashmoe
