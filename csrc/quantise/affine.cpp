#include "quantise/affine.hpp"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>

namespace flashmoe {
namespace {

static_assert(std::endian::native == std::endian::little, "codes are stored little-end first");

// Four lanes are one register on every processor; compilers leave the same loops over plain floats scalar (3 times
// slower), since a NaN might have to raise a flag.
constexpr int kLanes = 4;
constexpr std::size_t kVectors = kGroupColumns / kLanes;
using Floats = float __attribute__((vector_size(16)));
using Halves = std::uint16_t __attribute__((vector_size(8)));
using Words = std::int32_t __attribute__((vector_size(16)));

constexpr std::int32_t kExponent = 0x7f80'0000;
constexpr float kSmallestScale = 1e-7f;
// Added to 0 <= v < 2^22 it leaves v, rounded half to even, in the low bits of the sum: rint without SSE4.1.
constexpr float kRounder = 12582912.0f;

float widen(BFloat16 value) { return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16); }

std::uint16_t to_bfloat16(float value) {
    const auto word = std::bit_cast<std::uint32_t>(value);
    return static_cast<std::uint16_t>((word + 0x7fff + ((word >> 16) & 1)) >> 16);
}

bool is_finite(std::uint16_t bfloat16) { return (bfloat16 & 0x7f80) != 0x7f80; }

// All ones in the lanes that hold a NaN or an infinity.
Words is_special(Floats values) { return (std::bit_cast<Words>(values) & kExponent) == kExponent; }

void load_group(const float* from, Floats* group) { std::memcpy(group, from, kGroupColumns * sizeof(float)); }

void load_group(const BFloat16* from, Floats* group) {
    for (std::size_t i = 0; i < kVectors; ++i) {
        Halves halves;
        std::memcpy(&halves, from + i * kLanes, sizeof halves);
        group[i] = std::bit_cast<Floats>(__builtin_convertvector(halves, Words) << 16);
    }
}

struct Range {
    float low;
    float high;
    bool finite;
};

// Four independent vectors: a single running minimum is bound by the latency of its instruction.
Range range_of(const Floats* group) {
    Floats low[4], high[4];
    Words suspect[4];
    for (int i = 0; i < 4; ++i) {
        low[i] = high[i] = group[i];
        suspect[i] = is_special(group[i]);
    }
    for (std::size_t begin = 4; begin < kVectors; begin += 4)
        for (std::size_t i = 0; i < 4; ++i) {
            const Floats values = group[begin + i];
            low[i] = values < low[i] ? values : low[i];
            high[i] = values > high[i] ? values : high[i];
            suspect[i] |= is_special(values);
        }
    Range range{low[0][0], high[0][0], true};
    for (const Floats& values : low)
        for (int lane = 0; lane < kLanes; ++lane) range.low = values[lane] < range.low ? values[lane] : range.low;
    for (const Floats& values : high)
        for (int lane = 0; lane < kLanes; ++lane) range.high = values[lane] > range.high ? values[lane] : range.high;
    const Words any = suspect[0] | suspect[1] | suspect[2] | suspect[3];
    range.finite = (any[0] | any[1] | any[2] | any[3]) == 0;
    return range;
}

struct Grid {
    float scale;
    float bias;
};

Grid grid_of(const Range& range, float bins) {
    const bool low_is_edge = std::fabs(range.low) > std::fabs(range.high);
    const float step = (range.high - range.low) / bins;
    const float positive = step > kSmallestScale ? step : kSmallestScale;
    const float scale = low_is_edge ? positive : -positive;
    const float edge = low_is_edge ? range.low : range.high;
    const float zero_code = std::nearbyint(edge / scale);
    if (zero_code == 0.0f) return {scale, 0.0f};
    return {edge / zero_code, edge};
}

// Eight codes, one a byte, to their packed form.
template <int Bits>
std::uint64_t pack_eight(std::uint64_t bytes) {
    if constexpr (Bits == 8) return bytes;
    constexpr std::uint64_t pair = Bits == 4 ? 0x00ff'00ff'00ff'00ff : 0x000f'000f'000f'000f;
    constexpr std::uint64_t four = Bits == 4 ? 0x0000'ffff'0000'ffff : 0x0000'00ff'0000'00ff;
    bytes = (bytes | (bytes >> (8 - Bits))) & pair;
    bytes = (bytes | (bytes >> 2 * (8 - Bits))) & four;
    return bytes | (bytes >> 4 * (8 - Bits));
}

template <int Bits>
void encode_group(const Floats* group, const Grid& grid, std::byte* out) {
    constexpr Floats zero{};
    constexpr Floats bins = zero + static_cast<float>((1 << Bits) - 1);
    std::array<Words, kVectors> words;
    for (std::size_t i = 0; i < kVectors; ++i) {
        Floats position = (group[i] - grid.bias) / grid.scale;
        position = position > zero ? position : zero;  // and 0 / 0 of a constant group too wide for the grid is 0
        position = position < bins ? position : bins;
        words[i] = std::bit_cast<Words>(position + kRounder);
    }
    std::array<std::uint8_t, kGroupColumns> codes;
    for (std::size_t i = 0; i < kGroupColumns; ++i) codes[i] = static_cast<std::uint8_t>(words[i / kLanes][i % kLanes]);
    for (std::size_t i = 0; i < kGroupColumns; i += 8) {
        std::uint64_t bytes;
        std::memcpy(&bytes, codes.data() + i, sizeof bytes);
        const std::uint64_t packed = pack_eight<Bits>(bytes);
        std::memcpy(out + i * Bits / 8, &packed, Bits);
    }
}

template <int Bits, typename Value>
std::optional<std::size_t> quantise_bits(const Value* values, std::size_t columns, std::byte* codes,
                                         std::uint16_t* scales, std::uint16_t* biases) {
    for (std::size_t begin = 0; begin < columns; begin += kGroupColumns) {
        std::array<Floats, kVectors> group;
        load_group(values + begin, group.data());
        const Range range = range_of(group.data());
        const Grid grid = grid_of(range, (1 << Bits) - 1);
        const std::uint16_t scale = to_bfloat16(grid.scale);
        const std::uint16_t bias = to_bfloat16(grid.bias);
        if (!range.finite || !is_finite(scale) || !is_finite(bias)) return begin;
        encode_group<Bits>(group.data(), grid, codes + code_bytes(begin, Bits));
        scales[begin / kGroupColumns] = scale;
        biases[begin / kGroupColumns] = bias;
    }
    return std::nullopt;
}

template <typename Value>
std::optional<std::size_t> quantise_any(const Value* values, std::size_t columns, int bits, std::uint32_t* codes,
                                        std::uint16_t* scales, std::uint16_t* biases) {
    auto* out = reinterpret_cast<std::byte*>(codes);
    if (bits == 2) return quantise_bits<2>(values, columns, out, scales, biases);
    if (bits == 4) return quantise_bits<4>(values, columns, out, scales, biases);
    return quantise_bits<8>(values, columns, out, scales, biases);
}

template <int Bits>
void dequantise_bits(const std::uint32_t* codes, const std::uint16_t* scales, const std::uint16_t* biases,
                     std::size_t columns, float* values) {
    constexpr std::size_t per_word = 32 / Bits;
    constexpr std::uint32_t mask = (1u << Bits) - 1;
    for (std::size_t begin = 0; begin < columns; begin += kGroupColumns) {
        const float scale = widen(BFloat16{scales[begin / kGroupColumns]});
        const float bias = widen(BFloat16{biases[begin / kGroupColumns]});
        for (std::size_t i = begin; i < begin + kGroupColumns; i += per_word)
            for (std::size_t j = 0; j < per_word; ++j) {
                const auto code = static_cast<std::int32_t>((codes[i / per_word] >> (j * Bits)) & mask);
                values[i + j] = static_cast<float>(code) * scale + bias;
            }
    }
}

}  // namespace

std::optional<std::size_t> quantise_row(const BFloat16* values, std::size_t columns, int bits, std::uint32_t* codes,
                                        std::uint16_t* scales, std::uint16_t* biases) {
    return quantise_any(values, columns, bits, codes, scales, biases);
}

std::optional<std::size_t> quantise_row(const float* values, std::size_t columns, int bits, std::uint32_t* codes,
                                        std::uint16_t* scales, std::uint16_t* biases) {
    return quantise_any(values, columns, bits, codes, scales, biases);
}

void dequantise_row(const std::uint32_t* codes, const std::uint16_t* scales, const std::uint16_t* biases,
                    std::size_t columns, int bits, float* values) {
    if (bits == 2) return dequantise_bits<2>(codes, scales, biases, columns, values);
    if (bits == 4) return dequantise_bits<4>(codes, scales, biases, columns, values);
    return dequantise_bits<8>(codes, scales, biases, columns, values);
}

}  // namespace flashmoe
