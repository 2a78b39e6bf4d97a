#include "backend/kv_cache.hpp"

#include <algorithm>
#include <cstring>

namespace flashmoe {

namespace {

KvLayout layout(Index dim, Index padded, int bits) {
    const Index code = bits / 8, scales = bits == 8 ? 4 * ceil_div(dim, kGroup) * kBlockTokens : 0;
    KvLayout at{};
    at.key_scales = code * dim * kBlockTokens;
    at.values = at.key_scales + scales;
    at.value_scales = at.values + code * padded * kBlockTokens;
    at.bytes = at.value_scales + scales;  // a multiple of a cache line, as each of them is
    return at;
}

// A row of floats as int8 codes [n], then scales; x and codes have room for a whole number of groups.
void quantise(const Kernels& kernels, const float* from, Index n, std::vector<float>& x, std::vector<std::int8_t>& codes,
              std::uint8_t* row) {
    const auto size = static_cast<std::size_t>(n), groups = x.size() / kGroup;
    std::copy_n(from, n, x.begin());
    std::vector<float> scales(2 * groups);
    kernels.quantise_row(x.data(), static_cast<Index>(x.size()), codes.data(), scales.data(), scales.data() + groups);
    std::memcpy(row, codes.data(), size);
    std::memcpy(row + size, scales.data(), 4 * groups);
}

}  // namespace

KvCache::KvCache(Index heads, Index dim, int bits)
    : heads_(heads), dim_(dim), padded_(round_up(dim, 16)), bits_(bits), layout_(layout(dim, padded_, bits)) {}

KvCache KvCache::fork(Index length) const {
    KvCache result(heads_, dim_, bits_);
    const auto blocks = static_cast<std::ptrdiff_t>(ceil_div(length, kBlockTokens));
    result.blocks_.assign(blocks_.begin(), blocks_.begin() + blocks);
    result.pointers_.assign(pointers_.begin(), pointers_.begin() + blocks);
    result.length_ = length;
    result.owns_tail_ = false;
    return result;
}

KvHead KvCache::head(Index h) const {
    const Index begin = h * layout_.bytes;
    KvLayout at = layout_;
    for (Index* offset : {&at.keys, &at.key_scales, &at.values, &at.value_scales}) *offset += begin;
    return {pointers_.data(), at, bits_};
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

template <class Copy>
void KvCache::each_run(Index token, Index head, const Copy& copy) const {
    std::uint8_t* block = blocks_[static_cast<std::size_t>(token / kBlockTokens)].get() + head * layout_.bytes;
    const Index slot = token % kBlockTokens, part = part_bytes(), code = bits_ / 8;
    // The size is a constant, so that a copy is one instruction.
    const auto transposed = [&](auto element, Index at, Index from, Index n) {
        constexpr Index size = sizeof element;
        for (Index i = 0; i < n; ++i) copy(block + at + (i * kBlockTokens + slot) * size, from + i * size, size);
    };
    copy(block + layout_.values + slot * padded_ * code, part, dim_ * code);
    if (bits_ == 16) return transposed(std::uint16_t{}, layout_.keys, 0, dim_);
    transposed(std::int8_t{}, layout_.keys, 0, dim_);
    transposed(float{}, layout_.key_scales, dim_, groups());
    transposed(float{}, layout_.value_scales, part + dim_, groups());
}

void KvCache::put(Index token, Index head, const std::uint8_t* row) {
    each_run(token, head, [row](std::uint8_t* here, Index at, Index n) {
        std::memcpy(here, row + at, static_cast<std::size_t>(n));
    });
}

void KvCache::append(const Kernels& kernels, Pool& pool, const Heads& keys, const Heads& values) {
    grow(keys.tokens);
    constexpr Index kChunk = 16;
    pool.run(static_cast<std::uint32_t>(ceil_div(keys.tokens, kChunk)), [&](std::uint32_t chunk, int) {
        std::vector<std::uint8_t> row(static_cast<std::size_t>(2 * part_bytes()));
        std::vector<std::uint16_t> halves(static_cast<std::size_t>(dim_));
        std::vector<float> x(static_cast<std::size_t>(groups() * kGroup));
        std::vector<std::int8_t> codes(x.size());
        const auto convert = [&](const float* from, std::uint8_t* to) {
            if (bits_ == 8) return quantise(kernels, from, dim_, x, codes, to);
            kernels.to_f16(from, dim_, halves.data());
            std::memcpy(to, halves.data(), 2 * halves.size());
        };
        const Index last = std::min<Index>(keys.tokens, (chunk + 1) * kChunk);
        for (Index t = chunk * kChunk; t < last; ++t)
            for (Index h = 0; h < heads_; ++h) {
                convert(keys.at(t, h), row.data());
                convert(values.at(t, h), row.data() + part_bytes());
                put(length_ + t, h, row.data());
            }
    });
    length_ += keys.tokens;
}

void KvCache::append_rows(Index tokens, const std::uint8_t* rows) {
    grow(tokens);
    for (Index t = 0; t < tokens; ++t)
        for (Index h = 0; h < heads_; ++h, rows += 2 * part_bytes()) put(length_ + t, h, rows);
    length_ += tokens;
}

void KvCache::read(Index first, Index last, std::uint8_t* rows) const {
    for (Index t = first; t < last; ++t)
        for (Index h = 0; h < heads_; ++h, rows += 2 * part_bytes())
            each_run(t, h, [rows](const std::uint8_t* here, Index at, Index n) {
                std::memcpy(rows + at, here, static_cast<std::size_t>(n));
            });
}

}  // namespace flashmoe
