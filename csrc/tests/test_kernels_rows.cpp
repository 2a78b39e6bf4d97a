// Kernels from one row to another: rounding, norms, gates, sums of experts, halves.
#include <cmath>

#include "tests/kernel_cases.hpp"

using namespace kernel_cases;

TEST(kernels_have_a_portable_table_last) {
    CHECK(std::string(available_kernels().back()->name) == "portable");
    for (const Kernels* table : available_kernels()) CHECK(&find_kernels(table->name) == table);
    CHECK_THROWS(std::invalid_argument, find_kernels("abacus"));
}

TEST(kernels_quantise_activations_alike) {
    for (const float scale : {1e-30f, 1.0f, 1e30f})
        for (const Index k : {64, 128, 704}) {
            auto x = floats(k, scale);
            std::fill_n(x.begin(), 64, 0.0f);
            same_bits("quantise_row", [&](const Kernels& table) {
                std::vector<std::int8_t> codes(size(k));
                std::vector<float> scales(size(k / kGroup)), sums(size(k / kGroup));
                table.quantise_row(x.data(), k, codes.data(), scales.data(), sums.data());
                for (const auto code : codes) scales.push_back(code);
                scales.insert(scales.end(), sums.begin(), sums.end());
                return scales;
            });
        }
}

TEST(kernels_split_codes_alike) {
    std::vector<std::int8_t> codes(size(9 * kGroup));
    for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::int8_t>(i * 37 % 255 - 127);
    for (const Index bits : {4, 2}) {
        const Index fields = 8 / bits, whole = (9 + fields - 1) / fields * fields * kGroup;
        std::vector<std::int8_t> expected(size(whole));
        for (Index i = 0; i < 9 * kGroup; ++i) {
            const Index vector = i / (fields * kGroup), within = i % (fields * kGroup);
            expected[size(vector * fields * kGroup + within % fields * kGroup + within / fields)] = codes[size(i)];
        }
        for (const Kernels* table : available_kernels()) {
            std::vector<std::int8_t> row(size(whole));
            for (const auto& [first, groups] : {std::pair<Index, Index>{0, 3}, {3, 1}, {4, 5}})
                table->split_codes(codes.data() + first * kGroup, first, groups, static_cast<int>(bits), row.data());
            CHECK(row == expected);
        }
    }
}

TEST(kernels_normalise_and_gate_alike) {
    const auto x = floats(256), z = floats(256, 4.0f), weight = floats(256);
    same_rows("rms_norm", [&](const Kernels& table, Index n, float* out) {
        table.rms_norm(x.data(), weight.data(), 1e-6f, n, out);
    });
    same_rows("gated_rms_norm", [&](const Kernels& table, Index n, float* out) {
        table.gated_rms_norm(x.data(), z.data(), weight.data(), 1e-6f, n, out);
    });
    same_rows("sigmoid_gate",
              [&](const Kernels& table, Index n, float* out) { table.sigmoid_gate(x.data(), z.data(), n, out); });
    same_rows("silu_mul",
              [&](const Kernels& table, Index n, float* out) { table.silu_mul(z.data(), x.data(), n, out); });
    same_rows("softmax", [&](const Kernels& table, Index n, float* out) {
        std::copy_n(z.begin(), n, out);
        table.softmax(out, n);
    });
    for (const Index n : {48, 96, 256})
        same_bits("norm_rope", [&](const Kernels& table) {
            std::vector<float> out(size(n));
            table.norm_rope(x.data(), weight.data(), 1e-6f, n, z.data(), z.data() + 128, n / 8, out.data());
            return out;
        });
}

TEST(kernels_gate_extremes_alike) {
    const std::vector<float> x{0.0f,   -0.0f,  1e-40f,  87.0f,   89.0f,  200.0f,   1e30f,     0.5f,
                               -87.0f, -89.0f, -104.0f, -200.0f, -1e30f, INFINITY, -INFINITY, -0.5f};
    const std::vector<float> ones(x.size(), 1.0f);
    same_bits("silu_mul of extremes", [&](const Kernels& table) {
        std::vector<float> out(x.size());
        table.silu_mul(x.data(), ones.data(), static_cast<Index>(x.size()), out.data());
        return out;
    });
}

TEST(kernels_combine_alike) {
    const auto outputs = floats(10 * 256), weights = floats(10), shared = floats(256);
    for (const Index ranks : {1, 8, 10})
        for (const float* also : {static_cast<const float*>(nullptr), shared.data()})
            same_rows("combine", [&](const Kernels& table, Index n, float* out) {
                table.combine(outputs.data(), weights.data(), ranks, also, 0.3f, n, out);
            });
}

TEST(kernels_convert_halves_alike) {
    auto x = floats(256, 100.0f);
    x[3] = 1e6f;
    x[20] = -1e6f;
    x[21] = 1e-7f;
    x[22] = 65519.0f;
    for (const Index n : kLengths)
        same_bits("to_f16", [&](const Kernels& table) {
            std::vector<std::uint16_t> out(size(n));
            table.to_f16(x.data(), n, out.data());
            return out;
        });
    const auto h = halves(256);
    same_rows("from_f16", [&](const Kernels& table, Index n, float* out) { table.from_f16(h.data(), n, out); });
}
