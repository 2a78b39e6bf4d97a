// Kernels that carry a sequence's past: attention, convolution, the delta rule.
#include "tests/kernel_cases.hpp"

using namespace kernel_cases;

TEST(kernels_attend_alike) {
    for (const Index dim : {24, 64, 100})
        for (const Index heads : {1, 3, 4})
            for (const Index length : {1, 63, 64, 65, 200}) {
                const Index padded = (dim + 15) / 16 * 16;
                std::vector<std::vector<std::uint16_t>> blocks;
                std::vector<const std::uint8_t*> pointers;
                for (Index begin = 0; begin < length; begin += kBlockTokens) {
                    blocks.push_back(halves((dim + padded) * kBlockTokens));
                    pointers.push_back(reinterpret_cast<const std::uint8_t*>(blocks.back().data()));
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
                    work.kv = {pointers.data(), 0, 2 * dim * kBlockTokens};
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
