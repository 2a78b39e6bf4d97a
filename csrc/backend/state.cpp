#include "backend/state.hpp"

#include <algorithm>
#include <cstring>

namespace flashmoe {

KvCache::KvCache(Index heads, Index dim) : heads_(heads), dim_(dim), padded_(round_up(dim, 16)) {}

void KvCache::grow(Index tokens) {
    const auto needed = static_cast<std::size_t>(ceil_div(length_ + tokens, kBlockTokens));
    const auto size = static_cast<std::size_t>(heads_ * (dim_ + padded_) * kBlockTokens);
    while (blocks_.size() < needed) {
        blocks_.push_back(std::make_unique<std::uint16_t[]>(size));
        pointers_.push_back(blocks_.back().get());
    }
}

void KvCache::put(Index token, Index head, const std::uint16_t* key, const std::uint16_t* value) {
    const Index place = token % kBlockTokens;
    std::uint16_t* keys = block(token) + keys_offset(head) + place;
    for (Index i = 0; i < dim_; ++i) keys[i * kBlockTokens] = key[i];
    std::memcpy(block(token) + values_offset(head) + place * padded_, value, static_cast<std::size_t>(dim_) * 2);
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

void KvCache::append_f16(Index tokens, const std::uint16_t* keys, const std::uint16_t* values) {
    grow(tokens);
    for (Index t = 0; t < tokens; ++t)
        for (Index h = 0; h < heads_; ++h) {
            const Index at = (t * heads_ + h) * dim_;
            put(length_ + t, h, keys + at, values + at);
        }
    length_ += tokens;
}

void KvCache::read(Index first, Index last, std::uint16_t* keys, std::uint16_t* values) const {
    for (Index t = first; t < last; ++t)
        for (Index h = 0; h < heads_; ++h) {
            const Index place = t % kBlockTokens, at = ((t - first) * heads_ + h) * dim_;
            const std::uint16_t* from = block(t) + keys_offset(h) + place;
            for (Index i = 0; i < dim_; ++i) keys[at + i] = from[i * kBlockTokens];
            std::memcpy(values + at, block(t) + values_offset(h) + place * padded_, static_cast<std::size_t>(dim_) * 2);
        }
}

}  // namespace flashmoe
