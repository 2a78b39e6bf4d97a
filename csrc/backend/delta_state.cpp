#include "backend/delta_state.hpp"

#include <cstring>

namespace flashmoe {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t bytes_of(Index floats) { return static_cast<std::size_t>(floats) * sizeof(float); }

}  // namespace

DeltaState::DeltaState(Index channels, Index kernel, Index value_heads, Index key_dim, Index value_dim)
    : channels(channels), kernel(kernel), value_heads(value_heads), key_dim(key_dim), value_dim(value_dim),
      conv(static_cast<std::size_t>((kernel - 1) * channels)),
      memory_(bytes_of(value_heads * head_floats()), bytes_of(value_heads * head_floats()) >= kHugePage) {}

DeltaState::DeltaState(const DeltaState& other)
    : DeltaState(other.channels, other.kernel, other.value_heads, other.key_dim, other.value_dim) {
    conv = other.conv;
    std::memcpy(memory_.data(), other.memory_.data(), memory_.size());
}

template <class Visit>
void DeltaState::each_row(const Visit& visit) const {
    for (Index h = 0; h < value_heads; ++h)
        for (Index p = 0; p < parts(); ++p)
            for (Index k = 0; k < key_dim; ++k)
                visit(part(h, p) + k * round_up(columns(p), 16), (h * key_dim + k) * value_dim + p * kDeltaColumns,
                      bytes_of(columns(p)));
}

void DeltaState::read(float* values) const {
    float* rows = std::copy(conv.begin(), conv.end(), values);
    each_row([rows](const float* row, Index at, std::size_t bytes) { std::memcpy(rows + at, row, bytes); });
}

void DeltaState::write(const float* values) {
    const float* rows = values + conv.size();
    std::copy(values, rows, conv.begin());
    each_row([rows](float* row, Index at, std::size_t bytes) { std::memcpy(row, rows + at, bytes); });
}

}  // namespace flashmoe
