#include "backend/kv_cache.hpp"

#include <algorithm>
#include <cstring>

namespace flashmoe {

KvCache::KvCache(Index heads, Index dim) : heads_(heads), dim_(dim), padded_(round_up(dim, 16)) {}

KvCache KvCache::fork(Index length) const {
    KvCache result(heads_, dim_);
    const auto blocks = static_cast<std::ptrdiff_t>(ceil_div(length, kBlockTokens));
    result.blocks_.assign(blocks_.begin(), blocks_.begin() + blocks);
    result.pointers_.assign(pointers_.begin(), pointers_.begin() + blocks);
    result.length_ = length;
    result.owns_tail_ = false;
    return result;
}

KvHead KvCache::head(Index h) const {
    return {pointers_.data(), h * head_bytes(), h * head_bytes() + values_offset()};
}

KvCache::Block KvCache::new_block() const {
    const auto bytes = static_cast<std::size_t>(block_bytes());
    Block block(static_cast<std::uint8_t*>(::operator new(bytes, std::align_val_t{64})), Free{});
    std::memset(block.get(), 0, bytes);
    return block;
}

void KvCache::grow(Index tokens) {
    if (!owns_tail_ && length_ % kBlockTokens != 0) {
        Block copy = new_block();
        std::memcpy(copy.get(), blocks_.back().get(), static_cast<std::size_t>(block_bytes()));
        blocks_.back() = std::move(copy);
        pointers_.back() = blocks_.back().get();
    }
    owns_tail_ = true;
    const auto needed = static_cast<std::size_t>(ceil_div(length_ + tokens, kBlockTokens));
    pointers_.reserve(needed);
    while (blocks_.size() < needed) {
        blocks_.push_back(new_block());
        pointers_.push_back(blocks_.back().get());
    }
}

std::uint16_t* KvCache::key(Index token, Index head) const {
    std::uint8_t* block = blocks_[static_cast<std::size_t>(token / kBlockTokens)].get();
    return reinterpret_cast<std::uint16_t*>(block + head * head_bytes()) + token % kBlockTokens;
}

std::uint16_t* KvCache::value(Index token, Index head) const {
    std::uint8_t* block = blocks_[static_cast<std::size_t>(token / kBlockTokens)].get();
    return reinterpret_cast<std::uint16_t*>(block + head * head_bytes() + values_offset()) +
           token % kBlockTokens * padded_;
}

void KvCache::put(Index token, Index head, const std::uint16_t* key, const std::uint16_t* value) {
    std::uint16_t* to = this->key(token, head);
    for (Index i = 0; i < dim_; ++i) to[i * kBlockTokens] = key[i];
    std::memcpy(this->value(token, head), value, static_cast<std::size_t>(dim_) * 2);
}

void KvCache::append(const Kernels& kernels, Pool& pool, const Heads& keys, const Heads& values) {
    grow(keys.tokens);
    constexpr Index kChunk = 16;
    pool.run(static_cast<std::uint32_t>(ceil_div(keys.tokens, kChunk)), [&](std::uint32_t chunk, int) {
        std::vector<std::uint16_t> halves(static_cast<std::size_t>(2 * dim_));
        const Index last = std::min<Index>(keys.tokens, (chunk + 1) * kChunk);
        for (Index t = chunk * kChunk; t < last; ++t)
            for (Index h = 0; h < heads_; ++h) {
                kernels.to_f16(keys.at(t, h), dim_, halves.data());
                kernels.to_f16(values.at(t, h), dim_, halves.data() + dim_);
                put(length_ + t, h, halves.data(), halves.data() + dim_);
            }
    });
    length_ += keys.tokens;
}

void KvCache::append_rows(Index tokens, const std::uint8_t* rows) {
    grow(tokens);
    std::vector<std::uint16_t> halves(static_cast<std::size_t>(2 * dim_));
    for (Index t = 0; t < tokens; ++t)
        for (Index h = 0; h < heads_; ++h, rows += 4 * dim_) {
            std::memcpy(halves.data(), rows, static_cast<std::size_t>(4 * dim_));
            put(length_ + t, h, halves.data(), halves.data() + dim_);
        }
    length_ += tokens;
}

void KvCache::read(Index first, Index last, std::uint8_t* rows) const {
    std::vector<std::uint16_t> halves(static_cast<std::size_t>(dim_));
    for (Index t = first; t < last; ++t)
        for (Index h = 0; h < heads_; ++h, rows += 4 * dim_) {
            const std::uint16_t* from = key(t, h);
            for (Index i = 0; i < dim_; ++i) halves[static_cast<std::size_t>(i)] = from[i * kBlockTokens];
            std::memcpy(rows, halves.data(), static_cast<std::size_t>(2 * dim_));
            std::memcpy(rows + 2 * dim_, value(t, h), static_cast<std::size_t>(2 * dim_));
        }
}

}  // namespace flashmoe
