// The quantiser against MLX's rule written one number at a time.
#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "quantise/affine.hpp"
#include "tests/check.hpp"

using namespace flashmoe;

namespace {

float widen(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

std::uint16_t narrow(float value) {
    const auto word = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t kept = word >> 16;
    const std::uint32_t rest = word & 0xffff;
    return static_cast<std::uint16_t>(kept + (rest > 0x8000 || (rest == 0x8000 && kept % 2 == 1)));
}

struct Row {
    explicit Row(std::size_t columns, int bits)
        : codes(code_bytes(columns, bits) / 4), scales(columns / kGroupColumns), biases(columns / kGroupColumns) {}
    bool operator==(const Row&) const = default;

    std::vector<std::uint32_t> codes;
    std::vector<std::uint16_t> scales;
    std::vector<std::uint16_t> biases;
};

Row by_the_rule(const std::vector<std::uint16_t>& values, int bits) {
    Row row(values.size(), bits);
    const float bins = static_cast<float>((1 << bits) - 1);
    for (std::size_t group = 0; group < values.size() / kGroupColumns; ++group) {
        float low = INFINITY, high = -INFINITY;
        for (std::size_t i = 0; i < kGroupColumns; ++i) {
            low = std::min(low, widen(values[group * kGroupColumns + i]));
            high = std::max(high, widen(values[group * kGroupColumns + i]));
        }
        float scale = std::max((high - low) / bins, 1e-7f);
        float edge = low;
        if (std::fabs(low) <= std::fabs(high)) {
            scale = -scale;
            edge = high;
        }
        const float at = std::rint(edge / scale);
        float bias = 0.0f;
        if (at != 0.0f) {
            scale = edge / at;
            bias = edge;
        }
        row.scales[group] = narrow(scale);
        row.biases[group] = narrow(bias);
        for (std::size_t i = 0; i < kGroupColumns; ++i) {
            const std::size_t column = group * kGroupColumns + i;
            float code = std::rint((widen(values[column]) - bias) / scale);
            code = std::isnan(code) ? 0.0f : std::min(std::max(code, 0.0f), bins);
            const auto per_word = static_cast<std::size_t>(32 / bits);
            row.codes[column / per_word] |= static_cast<std::uint32_t>(code) << (column % per_word) * bits;
        }
    }
    return row;
}

std::vector<std::uint16_t> random_row(std::mt19937& random, std::size_t columns) {
    // Any finite bit pattern, around a magnitude of each group's own; ranges stay below overflow.
    std::vector<std::uint16_t> values(columns);
    for (std::size_t i = 0; i < columns; ++i) {
        static std::uint32_t exponent = 0;
        if (i % kGroupColumns == 0) exponent = random() % 0xf0;
        const std::uint32_t spread = random() % 8;
        values[i] = static_cast<std::uint16_t>((random() & 0x807f) | (exponent > spread ? exponent - spread : 0) << 7);
    }
    return values;
}

Row quantise(const std::vector<std::uint16_t>& values, int bits) {
    Row row(values.size(), bits);
    const auto* in = reinterpret_cast<const BFloat16*>(values.data());
    CHECK(!quantise_row(in, values.size(), bits, row.codes.data(), row.scales.data(), row.biases.data()));
    return row;
}

}  // namespace

TEST(quantise_follows_the_rule_bit_for_bit) {
    std::mt19937 random(1);
    for (const int bits : {2, 4, 8})
        for (int round = 0; round < 200; ++round) {
            const auto values = random_row(random, 4 * kGroupColumns);
            CHECK(quantise(values, bits) == by_the_rule(values, bits));
        }
}

TEST(quantise_keeps_constant_groups) {
    for (const float constant : {0.0f, -0.0f, 5.0f, -5.0f, 1e-40f, 3e38f, 1e32f})
        for (const int bits : {2, 4, 8}) {
            const std::vector<std::uint16_t> values(kGroupColumns, narrow(constant));
            const Row row = quantise(values, bits);
            CHECK(row == by_the_rule(values, bits));
            std::vector<float> back(kGroupColumns);
            dequantise_row(row.codes.data(), row.scales.data(), row.biases.data(), kGroupColumns, bits, back.data());
            if (std::fabs(constant) > 1.0f) CHECK_EQUAL(back[17], widen(values[17]));
        }
}

TEST(quantise_gives_float_rows_the_same_codes) {
    std::mt19937 random(2);
    for (const int bits : {2, 4, 8}) {
        const auto values = random_row(random, 8 * kGroupColumns);
        std::vector<float> wide;
        for (const auto value : values) wide.push_back(widen(value));
        Row row(values.size(), bits);
        CHECK(!quantise_row(wide.data(), wide.size(), bits, row.codes.data(), row.scales.data(), row.biases.data()));
        CHECK(row == quantise(values, bits));
    }
}

TEST(quantise_reports_the_group_it_cannot_represent) {
    for (const float bad : {INFINITY, -INFINITY, NAN})
        for (const std::size_t column : {64u, 90u, 127u}) {
            std::vector<float> values(3 * kGroupColumns, 0.5f);
            values[column] = bad;
            Row row(values.size(), 4);
            const auto at =
                quantise_row(values.data(), values.size(), 4, row.codes.data(), row.scales.data(), row.biases.data());
            CHECK(at == kGroupColumns);
        }
    std::vector<float> wide(kGroupColumns, 3e38f);
    wide[3] = -3e38f;  // finite, but their difference is not
    Row row(kGroupColumns, 4);
    const auto at =
        quantise_row(wide.data(), kGroupColumns, 4, row.codes.data(), row.scales.data(), row.biases.data());
    CHECK(at == 0u);
}

TEST(quantise_and_back_is_code_times_scale_plus_bias) {
    std::mt19937 random(3);
    for (const int bits : {2, 4, 8}) {
        const auto values = random_row(random, 4 * kGroupColumns);
        const Row row = quantise(values, bits);
        std::vector<float> back(values.size());
        dequantise_row(row.codes.data(), row.scales.data(), row.biases.data(), values.size(), bits, back.data());
        for (std::size_t i = 0; i < values.size(); ++i) {
            const auto per_word = static_cast<std::size_t>(32 / bits);
            const auto shift = i % per_word * static_cast<std::size_t>(bits);
            const auto code = static_cast<float>((row.codes[i / per_word] >> shift) & ((1u << bits) - 1));
            const std::size_t group = i / kGroupColumns;
            CHECK_EQUAL(back[i], std::fma(code, widen(row.scales[group]), widen(row.biases[group])));
        }
    }
}
