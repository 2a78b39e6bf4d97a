// What a GatedDeltaNet layer keeps of a sequence between calls.
#pragma once

#include <algorithm>
#include <vector>

#include "backend/in_use.hpp"
#include "backend/memory.hpp"
#include "io/buffer.hpp"
#include "kernels/types.hpp"

namespace flashmoe {

// The memory S is cut into parts of kDeltaColumns columns of a head, each the work of one thread. A part lies by itself,
// [key_dim, columns], as it is walked, its rows padded to whole vectors: every token reads and writes all of it, and the
// states of all layers are more than the caches hold. It has no lock: whoever lets several threads have it takes `use`.
class DeltaState {
public:
    DeltaState(Index channels, Index kernel, Index value_heads, Index key_dim, Index value_dim);
    DeltaState(const DeltaState& other);
    DeltaState& operator=(const DeltaState&) = delete;

    Index parts() const { return ceil_div(value_dim, kDeltaColumns); }
    Index columns(Index part) const { return std::min(kDeltaColumns, value_dim - part * kDeltaColumns); }
    float* part(Index head, Index part) const { return data() + head * head_floats() + part * key_dim * kDeltaColumns; }

    // The state as plain rows, whatever its layout: `conv`, then S as [value_heads, key_dim, value_dim].
    Index floats() const { return std::ssize(conv) + value_heads * key_dim * value_dim; }
    void read(float* values) const;
    void write(const float* values);

    const Index channels, kernel, value_heads, key_dim, value_dim;
    std::vector<float> conv;  // [kernel - 1, channels], oldest first
    InUse use;

private:
    Index head_floats() const { return key_dim * round_up(value_dim, 16); }
    float* data() const { return reinterpret_cast<float*>(memory_.data()); }
    // Calls visit(part's row, the plain row's place, floats) for every row of every part.
    template <class Visit>
    void each_row(const Visit& visit) const;

    Buffer memory_;
};

}  // namespace flashmoe
