// Random inputs for kernels, and the check that every instruction set of this processor computes the bits that portable
// C++ does. Vectors are of the exact size a kernel may touch, so that AddressSanitizer sees any that goes beyond.
#pragma once

#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/dispatch.hpp"
#include "tests/check.hpp"

namespace kernel_cases {

using namespace flashmoe;

inline std::mt19937 generator(7);

inline std::size_t size(Index n) { return static_cast<std::size_t>(n); }

inline std::vector<float> floats(Index n, float scale = 1.0f) {
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<float> values(size(n));
    for (float& value : values) value = generator() % 16 == 0 ? 0.0f : normal(generator);
    return values;
}

inline std::vector<std::uint8_t> bytes(Index n) {
    std::vector<std::uint8_t> values(size(n));
    for (auto& value : values) value = static_cast<std::uint8_t>(generator());
    return values;
}

inline std::vector<std::uint16_t> bfloats(Index n, float scale) {
    std::vector<std::uint16_t> values;
    for (const float value : floats(n, scale)) {
        std::uint32_t word;
        std::memcpy(&word, &value, sizeof word);
        values.push_back(static_cast<std::uint16_t>(word >> 16));
    }
    return values;
}

inline std::vector<std::uint16_t> halves(Index n) {
    std::vector<std::uint16_t> values(size(n));
    for (auto& value : values) {
        const std::uint32_t exponent = 10 + generator() % 8;
        value = static_cast<std::uint16_t>((generator() & 0x83ff) | exponent << 10);
    }
    return values;
}

// Runs `compute` with each table; its results must not differ by a bit from those of the last, the portable one.
template <typename Compute>
void same_bits(const std::string& what, const Compute& compute) {
    const auto tables = available_kernels();
    const auto expected = compute(*tables.back());
    for (const Kernels* table : tables) {
        const auto result = compute(*table);
        for (std::size_t i = 0; i < expected.size(); ++i)
            if (std::memcmp(&result[i], &expected[i], sizeof expected[i]) != 0)
                check::fail(__FILE__, __LINE__, std::string(table->name) + " differs in element " + std::to_string(i) +
                                                    " of " + what);
    }
}

inline const std::vector<Index> kLengths{1, 3, 15, 16, 17, 31, 64, 100, 256};

// For kernels from one row to another.
inline void same_rows(const std::string& what, const std::function<void(const Kernels&, Index, float*)>& compute) {
    for (const Index n : kLengths)
        same_bits(what + " of " + std::to_string(n), [&](const Kernels& table) {
            std::vector<float> out(size(n));
            compute(table, n, out.data());
            return out;
        });
}

}  // namespace kernel_cases
