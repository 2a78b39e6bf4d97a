// Attention cut into work for the threads: some tokens and one key/value head at a time, and where these are too few
// for the threads, the segments of their keys too.
#include <algorithm>

#include "backend/cpu.hpp"

namespace flashmoe {
namespace {

constexpr Index kUnitRows = 32;  // rows of queries that go over a block together, while it is near

}  // namespace

void Cpu::attention(const Heads& q, const Heads& k, const Heads& v, KvCache& cache, float scale, float* out) {
    const Index before = cache.length();
    cache.append(kernels_, pool_, k, v);
    const Index shared = q.heads / k.heads;  // query heads of one key/value head
    const Index unit_tokens = std::max<Index>(1, kUnitRows / shared);
    const Index units = ceil_div(q.tokens, unit_tokens) * k.heads;
    const Index segments = ceil_div(cache.length(), kSegmentTokens);
    const Index padded = cache.padded_dim(), rows = unit_tokens * shared;
    const Index gathered = rows * attention_row_floats(padded);

    const auto work_of = [&](Index unit, float* queries) {
        const Index token = unit / k.heads * unit_tokens, kv = unit % k.heads;
        AttentionWork work{};
        work.q = q.at(token, kv * shared);
        work.token_stride = q.token_stride;
        work.head_stride = q.head_stride;
        work.tokens = std::min(unit_tokens, q.tokens - token);
        work.heads = shared;
        work.kv = cache.head(kv);
        work.length = before + token + 1;
        work.head_dim = cache.dim();
        work.padded_dim = padded;
        work.scale = scale;
        work.queries = queries;
        return work;
    };
    const auto finish = [&](Index unit, const AttentionWork& work, const float* from) {
        const Index token = unit / k.heads * unit_tokens, kv = unit % k.heads;
        for (Index r = 0; r < work.tokens * shared; ++r)
            kernels_.finish_attention(from, r, q.dim, padded,
                                      out + ((token + r / shared) * q.heads + kv * shared + r % shared) * q.dim);
    };
    const auto segments_of = [&](const AttentionWork& work) {
        return ceil_div(work.length + work.tokens - 1, kSegmentTokens);
    };

    const Index floats = round_up(rows * q.dim + 2 * gathered, 16);
    float* workers = scratch(floats);
    if (segments == 1 || units >= 4 * pool_.threads()) {
        pool_.run(static_cast<std::uint32_t>(units), [&](std::uint32_t unit, int worker) {
            float *all = workers + worker * floats, *part = all + gathered, *queries = part + gathered;
            const AttentionWork work = work_of(unit, queries);
            kernels_.attend(work, 0, all);
            for (Index s = 1; s < segments_of(work); ++s) {
                kernels_.attend(work, s, part);
                kernels_.merge_attention(all, part, work.tokens * shared, padded);
            }
            finish(unit, work, all);
        });
        return;
    }
    float* parts = values_.reserve(units * segments * gathered);
    pool_.run(static_cast<std::uint32_t>(units * segments), [&](std::uint32_t chunk, int worker) {
        kernels_.attend(work_of(chunk / segments, workers + worker * floats), chunk % segments, parts + chunk * gathered);
    });
    pool_.run(static_cast<std::uint32_t>(units), [&](std::uint32_t unit, int) {
        const AttentionWork work = work_of(unit, nullptr);
        float* all = parts + unit * segments * gathered;
        for (Index s = 1; s < segments_of(work); ++s)
            kernels_.merge_attention(all, all + s * gathered, work.tokens * shared, padded);
        finish(unit, work, all);
    });
}

}  // namespace flashmoe
