// Keys and values of one attention layer, in blocks that caches of sequences with a common beginning share.
#pragma once

#include <memory>
#include <vector>

#include "backend/in_use.hpp"
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

// float16, or int8 with scales, in blocks of kBlockTokens tokens: growing never moves what is there.
//
// A fork shares blocks with its source. Only the cache that made a block writes to it, behind its own length, which no
// fork reads; whoever else wants to go on inside a block copies it first. So forks may be read while the source grows.
// One cache has no lock: whoever lets several threads have it takes `use` first.
class KvCache {
public:
    KvCache(Index heads, Index dim, int bits);  // 16 or 8
    KvCache(KvCache&&) = default;
    KvCache(const KvCache&) = delete;
    KvCache& operator=(const KvCache&) = delete;

    // The first `length` tokens of this one.
    KvCache fork(Index length) const;

    Index length() const { return length_; }
    Index heads() const { return heads_; }
    Index dim() const { return dim_; }
    Index padded_dim() const { return padded_; }
    int bits() const { return bits_; }
    KvHead head(Index h) const;

    void append(const Kernels& kernels, Pool& pool, const Heads& keys, const Heads& values);

    // A token as bytes, whatever the layout of blocks: each head's key, then its value; codes, then scales.
    Index row_bytes() const { return 2 * heads_ * part_bytes(); }
    void read(Index first, Index last, std::uint8_t* rows) const;
    void append_rows(Index tokens, const std::uint8_t* rows);

    Index block_bytes() const { return heads_ * layout_.bytes; }
    // Where the blocks lie: equal for blocks that are shared.
    const std::vector<const std::uint8_t*>& blocks() const { return pointers_; }

    InUse use;

private:
    struct Free {
        void operator()(std::uint8_t* p) const { ::operator delete(p, std::align_val_t{64}); }
    };
    using Block = std::shared_ptr<std::uint8_t[]>;

    Index groups() const { return ceil_div(dim_, kGroup); }
    Index part_bytes() const { return bits_ == 16 ? 2 * dim_ : dim_ + 4 * groups(); }
    Block new_block() const;
    void grow(Index tokens);
    // Calls copy(address in the block, offset in the row's bytes, bytes) for each run of the token's head.
    template <class Copy>
    void each_run(Index token, Index head, const Copy& copy) const;
    void put(Index token, Index head, const std::uint8_t* row);

    Index heads_, dim_, padded_, length_ = 0;
    int bits_;
    KvLayout layout_;
    bool owns_tail_ = true;  // whether this cache may write behind its length in the last block
    std::vector<Block> blocks_;
    std::vector<const std::uint8_t*> pointers_;
};

}  // namespace flashmoe
