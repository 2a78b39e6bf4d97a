// MLX affine quantisation: w = code * scale + bias over groups of 64 columns; 2-, 4- or 8-bit codes, little-end first
// in uint32; scale and bias in bfloat16. Knows rows of numbers, not tensors or files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

namespace flashmoe {

inline constexpr std::size_t kGroupColumns = 64;

// bfloat16 as its 16 bits: a type of its own, so that float and bf16 rows select the right overload.
struct BFloat16 {
    std::uint16_t bits;
};

// Bytes that the codes of n columns take.
constexpr std::size_t code_bytes(std::size_t columns, int bits) { return columns * static_cast<std::size_t>(bits) / 8; }

// One row of `columns` values (a multiple of 64) by mx.quantize's rule: the edge of larger magnitude becomes the bias,
// the scale points away from it and is then adjusted so that zero lies on the grid. Codes are chosen with the scale and
// bias before they are rounded to bfloat16.
//
// Returns the first column whose group cannot be represented (a NaN, an infinity, or a range beyond bfloat16); what was
// written for that row is then meaningless. `bits` is 2, 4 or 8.
std::optional<std::size_t> quantise_row(const BFloat16* values, std::size_t columns, int bits, std::uint32_t* codes,
                                        std::uint16_t* scales, std::uint16_t* biases);
std::optional<std::size_t> quantise_row(const float* values, std::size_t columns, int bits, std::uint32_t* codes,
                                        std::uint16_t* scales, std::uint16_t* biases);

// values[i] = code * scale + bias in float32. An 8-bit code times an 8-bit significand is exact, so there is one
// rounding, in the sum, and a fused multiply-add would give the same bits.
void dequantise_row(const std::uint32_t* codes, const std::uint16_t* scales, const std::uint16_t* biases,
                    std::size_t columns, int bits, float* values);

}  // namespace flashmoe
