// Kernels that carry a sequence's past: attention, convolution, the delta rule.
#include "tests/kernel_cases.hpp"

using namespace kernel_cases;

TEST(kernels_attend_alike) {
    for (const Index dim : {24, 64, 100})
        for (const Index heads : {1, 3, 4, 6})
            for (const Index length : {1, 63, 64, 65, 200, 511, 600}) {
                const Index padded = (dim + 15) / 16 * 16, tokens = 2, last = length + tokens - 1;
                std::vector<std::vector<std::uint16_t>> blocks;
                std::vector<const std::uint8_t*> pointers;
                for (Index begin = 0; begin < last; begin += kBlockTokens) {
                    blocks.push_back(halves((dim + padded) * kBlockTokens));
                    pointers.push_back(reinterpret_cast<const std::uint8_t*>(blocks.back().data()));
                }
                const auto q = floats(tokens * heads * dim);
                same_bits("attend", [&](const Kernels& table) {
                    const Index rows = tokens * heads, gathered = rows * attention_row_floats(padded);
                    std::vector<float> out(size(rows * dim)), queries(size(rows * dim)), all(size(gathered)), part(all);
                    AttentionWork work{};
                    work.q = q.data();
                    work.token_stride = heads * dim;
                    work.head_stride = dim;
                    work.tokens = tokens;
                    work.heads = heads;
                    work.kv = {pointers.data(), 0, 2 * dim * kBlockTokens};
                    work.length = length;
                    work.head_dim = dim;
                    work.padded_dim = padded;
                    work.scale = 0.125f;
                    work.queries = queries.data();
                    table.attend(work, 0, all.data());
                    if (last > kSegmentTokens) {
                        table.attend(work, 1, part.data());
                        table.merge_attention(all.data(), part.data(), rows, padded);
                    }
                    for (Index r = 0; r < rows; ++r)
                        table.finish_attention(all.data(), r, dim, padded, &out[size(r * dim)]);
                    return out;
                });
            }
}

TEST(kernels_convolve_alike) {
    for (const Index channels : {5, 16, 40})
        for (const auto& [tokens, kernel] : {std::pair<Index, Index>{1, 4}, {9, 4}, {2, 5}, {3, 1}}) {
            const auto x = floats(tokens * channels), weight = floats(channels * kernel);
            const auto before = floats((kernel - 1) * channels);
            same_bits("conv", [&](const Kernels& table) {
                auto state = before;
                std::vector<float> out(size(tokens * channels)), taps(size(kernel * channels));
                table.conv({x.data(), channels, weight.data(), state.data(), channels, out.data(), channels, tokens,
                            channels, kernel, taps.data()});
                out.insert(out.end(), state.begin(), state.end());
                return out;
            });
        }
}

TEST(kernels_normalise_keys_and_queries_alike) {
    for (const Index n : {1, 24, 100, 128}) {
        const auto q = floats(n), k = floats(n);
        same_bits("normalise_delta", [&](const Kernels& table) {
            std::vector<float> out(size(2 * n + 1));
            table.normalise_delta(q.data(), k.data(), n, &out[0], &out[size(n)], &out[size(2 * n)]);
            return out;
        });
    }
}

TEST(kernels_apply_the_delta_rule_alike) {
    for (const Index key_dim : {24, 128})
        for (const Index columns : {7, 16, 40, 64})
            for (const Index tokens : {1, 5}) {
                const Index stride = 2 * key_dim + 1;
                const auto units = floats(tokens * stride, 0.1f), v = floats(tokens * columns), beta = floats(tokens);
                const auto before = floats(key_dim * columns);
                const std::vector<float> decay{0.9f, 0.5f, 1.0f, 0.99f, 0.0f};
                same_bits("delta", [&](const Kernels& table) {
                    auto state = before;
                    std::vector<float> out(size(tokens * columns)), scratch(size(key_dim * kDeltaColumns));
                    const float* q = units.data();
                    table.delta({q, q + key_dim, q + 2 * key_dim, stride, v.data(), columns, decay.data(), beta.data(), 1,
                                 state.data(), columns, out.data(), columns, tokens, key_dim, columns, scratch.data()});
                    out.insert(out.end(), state.begin(), state.end());
                    return out;
                });
            }
}
