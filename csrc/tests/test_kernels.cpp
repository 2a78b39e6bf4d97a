// Every instruction set this processor has computes the bits that portable C++ does, on the same random inputs.
// Vectors are of the exact size a kernel may touch, so that AddressSanitizer sees any that goes beyond.
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/dispatch.hpp"
#include "tests/check.hpp"

using namespace flashmoe;

namespace {

std::mt19937 generator(7);

std::size_t size(Index n) { return static_cast<std::size_t>(n); }

std::vector<float> floats(Index n, float scale = 1.0f) {
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<float> values(size(n));
    for (float& value : values) value = generator() % 16 == 0 ? 0.0f : normal(generator);
    return values;
}

std::vector<std::uint8_t> bytes(Index n) {
    std::vector<std::uint8_t> values(size(n));
    for (auto& value : values) value = static_cast<std::uint8_t>(generator());
    return values;
}

std::vector<std::uint16_t> bfloats(Index n, float scale) {
    std::vector<std::uint16_t> values;
    for (const float value : floats(n, scale)) {
        std::uint32_t word;
        std::memcpy(&word, &value, sizeof word);
        values.push_back(static_cast<std::uint16_t>(word >> 16));
    }
    return values;
}

std::vector<std::uint16_t> halves(Index n) {
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

struct Affine {
    Affine(Index out, Index in, int bits)
        : codes(bytes(out * in * bits / 8)), scales(bfloats(out * in / kGroup, 0.02f)),
          biases(bfloats(out * in / kGroup, 0.1f)), view{codes.data(), scales.data(), biases.data(), out, in, bits} {}

    std::vector<std::uint8_t> codes;
    std::vector<std::uint16_t> scales, biases;
    AffineView view;
};

struct Activations {
    Activations(Index in, int bits) {
        const Index groups = in / kGroup;
        const Index vector_groups = 8 / bits;
        const Index padded = (groups + vector_groups - 1) / vector_groups * vector_groups * kGroup;
        codes.resize(size(padded));
        for (Index i = 0; i < in; ++i) codes[size(i)] = static_cast<std::int8_t>(generator() % 255 - 127);
        scales = floats(groups, 0.01f);
        sums = floats(groups, 0.5f);
        scales.resize(size(groups / 8 * 8 + 16));
        sums.resize(scales.size());
    }

    std::vector<std::int8_t> codes;
    std::vector<float> scales, sums;
};

const std::vector<Index> kLengths{1, 3, 15, 16, 17, 31, 64, 100, 256};

// For kernels from one row to another.
void same_rows(const std::string& what, const std::function<void(const Kernels&, Index, float*)>& compute) {
    for (const Index n : kLengths)
        same_bits(what + " of " + std::to_string(n), [&](const Kernels& table) {
            std::vector<float> out(size(n));
            compute(table, n, out.data());
            return out;
        });
}

}  // namespace

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

TEST(kernels_multiply_affine_weights_alike) {
    for (const int bits : {2, 4, 8})
        for (const Index in : {64, 192, 512, 576, 1024, 1472, 2048})
            for (const Index count : {1, 2, 3, 4, 7}) {
                const Index out = 5;
                const Affine w(out, in, bits);
                std::vector<Activations> rows;
                for (Index t = 0; t < count; ++t) rows.emplace_back(in, bits);
                same_bits("affine_rows, " + std::to_string(bits) + " bits, in " + std::to_string(in),
                          [&](const Kernels& table) {
                              std::vector<float> y(size(count * out));
                              std::vector<QuantisedRow> views;
                              for (Index t = 0; t < count; ++t) {
                                  const Activations& row = rows[size(t)];
                                  float* to = &y[size(t * out)];
                                  views.push_back({row.codes.data(), row.scales.data(), row.sums.data(), to});
                              }
                              table.affine_rows(w.view, 0, 2, views.data(), count);
                              table.affine_rows(w.view, 2, out, views.data(), count);
                              return y;
                          });
            }
}

namespace {

// For kernels that multiply float rows with a matrix of five rows.
template <typename View>
void same_products(const std::string& what, Index in,
                   void (*Kernels::*kernel)(const View&, Index, Index, const FloatRow*, Index), const View& view) {
    for (const Index count : {1, 4, 6}) {
        const auto x = floats(count * in);
        same_bits(what + ", in " + std::to_string(in), [&](const Kernels& table) {
            std::vector<float> y(size(count * view.out));
            std::vector<FloatRow> rows;
            for (Index t = 0; t < count; ++t) rows.push_back({&x[size(t * in)], &y[size(t * view.out)]});
            (table.*kernel)(view, 0, view.out, rows.data(), count);
            return y;
        });
    }
}

}  // namespace

TEST(kernels_multiply_with_exact_activations_alike) {
    for (const int bits : {2, 4, 8})
        for (const Index in : {64, 192, 1024}) {
            const Affine w(5, in, bits);
            same_products("exact_affine_rows", in, &Kernels::exact_affine_rows, w.view);
            same_bits("embed_affine", [&](const Kernels& table) {
                std::vector<float> out(size(in));
                table.embed_affine(w.view, 3, out.data());
                return out;
            });
        }
}

TEST(kernels_multiply_dense_weights_alike) {
    for (const Index in : {5, 16, 48, 100, 1024})
        for (const bool bf16 : {false, true}) {
            const auto wide = floats(5 * in);
            const auto narrow = bfloats(5 * in, 1.0f);
            const DenseView view{bf16 ? static_cast<const void*>(narrow.data()) : wide.data(), 5, in, bf16};
            same_products("dense_rows", in, &Kernels::dense_rows, view);
            same_bits("embed_dense", [&](const Kernels& table) {
                std::vector<float> out(size(in));
                table.embed_dense(view, 4, out.data());
                return out;
            });
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

TEST(kernels_attend_alike) {
    for (const Index dim : {24, 64, 100})
        for (const Index heads : {1, 3, 4})
            for (const Index length : {1, 63, 64, 65, 200}) {
                const Index padded = (dim + 15) / 16 * 16;
                std::vector<std::vector<std::uint16_t>> blocks;
                std::vector<const std::uint16_t*> pointers;
                for (Index begin = 0; begin < length; begin += kBlockTokens) {
                    blocks.push_back(halves((dim + padded) * kBlockTokens));
                    pointers.push_back(blocks.back().data());
                }
                const auto q = floats(heads * dim);
                same_bits("attend", [&](const Kernels& table) {
                    std::vector<float> out(size(heads * dim)), scratch(size(kTile * (padded + dim)));
                    AttentionWork work{};
                    for (Index h = 0; h < heads; ++h) {
                        work.q[h] = &q[size(h * dim)];
                        work.out[h] = &out[size(h * dim)];
                    }
                    work.heads = heads;
                    work.blocks = pointers.data();
                    work.values_offset = dim * kBlockTokens;
                    work.length = length;
                    work.head_dim = dim;
                    work.padded_dim = padded;
                    work.scale = 0.125f;
                    work.scratch = scratch.data();
                    table.attend(work);
                    return out;
                });
            }
}

TEST(kernels_convolve_alike) {
    for (const Index channels : {5, 16, 40})
        for (const Index tokens : {1, 9}) {
            const Index kernel = 4;
            const auto x = floats(tokens * channels), weight = floats(channels * kernel);
            const auto before = floats((kernel - 1) * channels);
            same_bits("conv", [&](const Kernels& table) {
                auto state = before;
                std::vector<float> out(size(tokens * channels));
                table.conv({x.data(), channels, weight.data(), state.data(), channels, out.data(), channels, tokens,
                            channels, kernel});
                out.insert(out.end(), state.begin(), state.end());
                return out;
            });
        }
}

TEST(kernels_apply_the_delta_rule_alike) {
    for (const Index key_dim : {24, 128})
        for (const Index columns : {7, 16, 40, 64}) {
            const Index tokens = 5, stride = 2 * key_dim + columns;
            const auto qkv = floats(tokens * stride), beta = floats(tokens), before = floats(key_dim * columns);
            const std::vector<float> decay{0.9f, 0.5f, 1.0f, 0.99f, 0.0f};
            same_bits("delta", [&](const Kernels& table) {
                auto state = before;
                std::vector<float> out(size(tokens * columns)), scratch(size(key_dim * kDeltaColumns + 2 * key_dim));
                table.delta({qkv.data(), qkv.data() + key_dim, qkv.data() + 2 * key_dim, stride, decay.data(),
                             beta.data(), 1, state.data(), columns, out.data(), columns, tokens, key_dim, columns,
                             scratch.data()});
                out.insert(out.end(), state.begin(), state.end());
                return out;
            });
        }
}
