// Kernels that carry a sequence's past: attention, convolution, the delta rule.
#include "backend/kv_cache.hpp"
#include "tests/kernel_cases.hpp"

using namespace kernel_cases;

namespace {

// A cache of one head and random tokens.
KvCache filled(Index dim, int bits, Index tokens) {
    KvCache cache(1, dim, bits);
    Pool pool(1);
    const auto keys = floats(tokens * dim), values = floats(tokens * dim);
    cache.append(*available_kernels().back(), pool, {keys.data(), tokens, 1, dim, dim, dim},
                 {values.data(), tokens, 1, dim, dim, dim});
    return cache;
}

std::vector<float> attended(const Kernels& table, const KvCache& cache, const std::vector<float>& q, Index tokens,
                            Index heads) {
    const Index dim = cache.dim(), padded = cache.padded_dim(), length = cache.length() - tokens + 1;
    const Index rows = tokens * heads, gathered = rows * attention_row_floats(padded);
    std::vector<float> out(size(rows * dim)), queries(size(rows * dim)), all(size(gathered)), part(all);
    AttentionWork work{};
    work.q = q.data();
    work.token_stride = heads * dim;
    work.head_stride = dim;
    work.tokens = tokens;
    work.heads = heads;
    work.kv = cache.head(0);
    work.length = length;
    work.head_dim = dim;
    work.padded_dim = padded;
    work.scale = 0.125f;
    work.queries = queries.data();
    table.attend(work, 0, all.data());
    if (cache.length() > kSegmentTokens) {
        table.attend(work, 1, part.data());
        table.merge_attention(all.data(), part.data(), rows, padded);
    }
    for (Index r = 0; r < rows; ++r) table.finish_attention(all.data(), r, dim, padded, &out[size(r * dim)]);
    return out;
}

}  // namespace

TEST(kernels_attend_alike) {
    for (const int bits : {16, 8})
        for (const Index dim : {24, 64, 100})
            for (const Index heads : {1, 3, 4, 6})
                for (const Index length : {1, 63, 64, 65, 200, 511, 600}) {
                    const Index tokens = 2;
                    const KvCache cache = filled(dim, bits, length + tokens - 1);
                    const auto q = floats(tokens * heads * dim);
                    same_bits("attend", [&](const Kernels& table) { return attended(table, cache, q, tokens, heads); });
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
                const auto before = floats(key_dim * ((columns + 15) / 16 * 16));
                const std::vector<float> decay{0.9f, 0.5f, 1.0f, 0.99f, 0.0f};
                same_bits("delta", [&](const Kernels& table) {
                    auto state = before;
                    std::vector<float> out(size(tokens * columns));
                    const float* q = units.data();
                    table.delta({q, q + key_dim, q + 2 * key_dim, stride, v.data(), columns, decay.data(), beta.data(), 1,
                                 state.data(), out.data(), columns, tokens, key_dim, columns});
                    out.insert(out.end(), state.begin(), state.end());
                    return out;
                });
            }
}
