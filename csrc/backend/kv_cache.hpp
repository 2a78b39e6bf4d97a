// Keys and values of one attention layer, in blocks that caches of sequences with a common beginning share.
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

// float16, in blocks of kBlockTokens tokens: growing never moves what is there.
//
// A fork shares blocks with its source. Only the cache that made a block writes to it, behind its own length, which no
// fork reads; whoever else wants to go on inside a block copies it first. So forks may be read while the source grows.
class KvCache {
public:
    KvCache(Index heads, Index dim);
    KvCache(KvCache&&) = default;
    KvCache(const KvCache&) = delete;
    KvCache& operator=(const KvCache&) = delete;

    // The first `length` tokens of this one.
    KvCache fork(Index length) const;

    Index length() const { return length_; }
    Index heads() const { return heads_; }
    Index dim() const { return dim_; }
    Index padded_dim() const { return padded_; }
    KvHead head(Index h) const;

    void append(const Kernels& kernels, Pool& pool, const Heads& keys, const Heads& values);

    // A token as bytes, whatever the layout of blocks: each head's key, then its value.
    Index row_bytes() const { return 4 * heads_ * dim_; }
    void read(Index first, Index last, std::uint8_t* rows) const;
    void append_rows(Index tokens, const std::uint8_t* rows);

    Index block_bytes() const { return heads_ * head_bytes(); }
    // Where the blocks lie: equal for blocks that are shared.
    const std::vector<const std::uint8_t*>& blocks() const { return pointers_; }

private:
    struct Free {
        void operator()(std::uint8_t* p) const { ::operator delete(p, std::align_val_t{64}); }
    };
    using Block = std::shared_ptr<std::uint8_t[]>;

    Index head_bytes() const { return round_up(2 * (dim_ + padded_) * kBlockTokens, 64); }
    Index values_offset() const { return 2 * dim_ * kBlockTokens; }
    std::uint16_t* key(Index token, Index head) const;    // of stride kBlockTokens
    std::uint16_t* value(Index token, Index head) const;  // contiguous
    Block new_block() const;
    void grow(Index tokens);
    void put(Index token, Index head, const std::uint16_t* key, const std::uint16_t* value);

    Index heads_, dim_, padded_, length_ = 0;
    bool owns_tail_ = true;  // whether this cache may write behind its length in the last block
    std::vector<Block> blocks_;
    std::vector<const std::uint8_t*> pointers_;
};

}  // namespace flashmoe
