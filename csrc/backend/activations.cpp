#include "backend/activations.hpp"

#include <algorithm>
#include <cstring>

namespace flashmoe {
namespace {

constexpr int kWidths[] = {2, 4, 8};

constexpr Index kGroupsTogether = 32;

}  // namespace

void Activations::prepare(Index rows, Index columns, Widths widths) {
    columns_ = columns;
    widths_ = widths;
    gathered_rows_ = 0;
    const Index used = round_up(columns, 4 * kGroup);
    // A line more: 2048 bytes apart, the same columns of 16 rows would fill all places of the cache they may lie in.
    padded_ = used + kGroup;
    const Index groups = columns / kGroup;
    padded_groups_ = round_up(groups, 16);  // kernels load 16 each time
    for (const int bits : kWidths) {
        if (!widths.has(bits)) continue;
        codes_[bits / 4].reserve(rows * padded_);
        const Index tail = columns / (4 * kGroup) * (4 * kGroup);
        for (Index r = 0; r < rows && tail < used; ++r)
            std::memset(codes(bits, r) + tail, 0, static_cast<std::size_t>(used - tail));
    }
    float* scales = scales_.reserve(rows * padded_groups_);
    float* sums = sums_.reserve(rows * padded_groups_);
    for (Index r = 0; r < rows; ++r)
        for (Index g = groups; g < padded_groups_; ++g) scales[r * padded_groups_ + g] = sums[r * padded_groups_ + g] = 0;
}

void Activations::quantise(const Kernels& kernels, Index row, Index first, Index groups, const float* x) {
    for (Index done = 0; done < groups; done += kGroupsTogether) {
        alignas(64) std::int8_t natural[kGroupsTogether * kGroup];
        const Index count = std::min(kGroupsTogether, groups - done), from = first + done;
        const Index at = row * padded_groups_ + from;
        kernels.quantise_row(x + done * kGroup, count * kGroup, natural, scales_.data() + at, sums_.data() + at);
        if (widths_.has(2)) kernels.split_codes(natural, from, count, 2, codes(2, row));
        if (widths_.has(4)) kernels.split_codes(natural, from, count, 4, codes(4, row));
        if (widths_.has(8)) std::memcpy(codes(8, row) + from * kGroup, natural, static_cast<std::size_t>(count * kGroup));
    }
}

void Activations::prepare_gathered(const Kernels& kernels, Index rows) {
    gathered_rows_ = rows;
    for (const int bits : kWidths)
        if (widths_.has(bits)) gathered_[bits / 4].reserve(kernels.gathered_bytes(columns_, rows));
}

void Activations::gather(const Kernels& kernels, Index first, Index last) {
    for (const int bits : kWidths) {
        if (!widths_.has(bits)) continue;
        for (Index r = first; r < last; ++r)
            kernels.gather_row(row(r, bits, nullptr), columns_, bits, r, gathered_rows_, gathered_[bits / 4].data());
    }
}

const std::uint8_t* Activations::gathered(const Kernels& kernels, int bits, Index from) const {
    if (gathered_rows_ < kManyRows) return nullptr;
    return gathered_[bits / 4].data() + kernels.gathered_bytes(columns_, from);
}

QuantisedRow Activations::row(Index row, int bits, float* out) const {
    const Index at = row * padded_groups_;
    return {codes_[bits / 4].data() + row * padded_, scales_.data() + at, sums_.data() + at, out};
}

}  // namespace flashmoe
