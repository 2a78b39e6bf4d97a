// What a sequence keeps between calls: keys and values, and the state of GatedDeltaNet.
#pragma once

#include <memory>
#include <vector>

#include "backend/memory.hpp"
#include "kernels/table.hpp"
#include "threads/pool.hpp"

namespace flashmoe {

// Rows [tokens, heads, dim] of any strides, the last axis contiguous.
struct Heads {
    const float* data;
    Index tokens, heads, dim, token_stride, head_stride;

    const float* at(Index token, Index head) const { return data + token * token_stride + head * head_stride; }
};

// Keys and values in float16, in blocks of kBlockTokens tokens: growing never moves what is there.
class KvCache {
public:
    KvCache(Index heads, Index dim);
    KvCache(const KvCache&) = delete;
    KvCache& operator=(const KvCache&) = delete;

    Index length() const { return length_; }
    Index heads() const { return heads_; }
    Index dim() const { return dim_; }
    Index padded_dim() const { return padded_; }

    void append(const Kernels& kernels, Pool& pool, const Heads& keys, const Heads& values);
    // Both contiguous [tokens, heads, dim]: what `read` gave.
    void append_f16(Index tokens, const std::uint16_t* keys, const std::uint16_t* values);
    void read(Index first, Index last, std::uint16_t* keys, std::uint16_t* values) const;

    const std::uint16_t* const* blocks() const { return pointers_.data(); }
    Index keys_offset(Index head) const { return head * (dim_ + padded_) * kBlockTokens; }
    Index values_offset(Index head) const { return keys_offset(head) + dim_ * kBlockTokens; }

private:
    void grow(Index tokens);
    std::uint16_t* block(Index token) const { return blocks_[static_cast<std::size_t>(token / kBlockTokens)].get(); }
    void put(Index token, Index head, const std::uint16_t* key, const std::uint16_t* value);

    Index heads_, dim_, padded_, length_ = 0;
    std::vector<std::unique_ptr<std::uint16_t[]>> blocks_;
    std::vector<const std::uint16_t*> pointers_;
};

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
