#include "backend/activations.hpp"

#include <cstring>

namespace flashmoe {
namespace {

constexpr int kWidths[] = {2, 4, 8};

// Code i of a group goes to field i % Fields of its vector, behind the fields' codes of the groups before it.
template <int Fields>
void split_group(const std::int8_t* natural, Index group, std::int8_t* row) {
    constexpr Index part = kGroup / Fields;
    std::int8_t* to = row + group / Fields * (kGroup * Fields) + group % Fields * part;
    for (Index field = 0; field < Fields; ++field)
        for (Index i = 0; i < part; ++i) to[field * kGroup + i] = natural[i * Fields + field];
}

}  // namespace

void Activations::prepare(Index rows, Index columns, Widths widths) {
    columns_ = columns;
    widths_ = widths;
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

void Activations::split(Index row, Index group, const std::int8_t* natural) {
    if (widths_.has(2)) split_group<4>(natural, group, codes(2, row));
    if (widths_.has(4)) split_group<2>(natural, group, codes(4, row));
    if (widths_.has(8)) split_group<1>(natural, group, codes(8, row));
}

void Activations::quantise_group(const Kernels& kernels, Index row, Index group, const float* x) {
    alignas(64) std::int8_t natural[kGroup];
    const Index at = row * padded_groups_ + group;
    kernels.quantise_row(x, kGroup, natural, scales_.data() + at, sums_.data() + at);
    split(row, group, natural);
}

void Activations::quantise_row(const Kernels& kernels, Index row, const float* x) {
    for (Index g = 0; g < columns_ / kGroup; ++g) quantise_group(kernels, row, g, x + g * kGroup);
}

QuantisedRow Activations::row(Index row, int bits, float* out) const {
    const Index at = row * padded_groups_;
    return {codes_[bits / 4].data() + row * padded_, scales_.data() + at, sums_.data() + at, out};
}

}  // namespace flashmoe
