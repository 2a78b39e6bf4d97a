// What a layer does to the residual stream, each as one operation: its weights, and the sequences of a batch.
#pragma once

#include "backend/delta_state.hpp"
#include "backend/kv_cache.hpp"
#include "backend/weights.hpp"

namespace flashmoe {

// A GatedDeltaNet layer; vectors as in ops/blocks.py.
struct DeltaNetBlock {
    Weight qkv, z, b, a, output;
    const float *norm, *conv, *a_log, *dt_bias, *gated_norm;
    Index key_heads, value_heads, key_dim, value_dim, kernel;
    float eps;
};

// A full attention layer. gated: each head's rows of q are [query | gate].
struct AttentionBlock {
    Weight q, k, v, output;
    const float *norm, *q_norm, *k_norm;
    Index heads, kv_heads, dim;
    bool gated;
    float eps;
};

struct SharedExpert {
    Weight gate, up, down, share;
};

// Rows [begin, end) of a batch belong to one sequence.
template <class State>
struct Part {
    Index begin, end;
    State* state;
};

}  // namespace flashmoe
