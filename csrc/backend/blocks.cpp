// Mixers and the two ends of a mixture of experts, composed of the operations beside this file: one call from Python
// where there would be a dozen, each of which costs its arguments' way through cold caches.
#include <algorithm>
#include <cmath>

#include "backend/cpu.hpp"

namespace flashmoe {
namespace {

// Multiplications of an attention's piece, between two of which it can be stopped: 0.1 to 0.3 s on two cores.
constexpr Index kPieceWork = Index{1} << 31;
constexpr Index kSmallestPiece = 32;
// Rows that are normalised and routed together: few enough to be near when each chunk of the router's weights meets them.
constexpr Index kRouteRows = 128;

Heads heads_of(const float* data, Index tokens, Index heads, Index stride, Index dim) {
    return {data, tokens, heads, dim, heads * stride, stride};
}

Rows rows_of(const float* data, Index first, Index last, Index columns) {
    return {data + first * columns, last - first, columns, columns};
}

}  // namespace

template <std::size_t N>
std::array<float*, N> Cpu::block_rows(Index rows, const Index (&columns)[N]) {
    Index total = 0;
    for (const Index n : columns) total += round_up(rows * n, 16);
    float* next = block_.reserve(total);
    std::array<float*, N> arrays;
    for (std::size_t i = 0; i < N; ++i) {
        arrays[i] = next;
        next += round_up(rows * columns[i], 16);
    }
    return arrays;
}

void Cpu::add(const Residual& x, const float* y) {
    for_rows(x.rows, x.columns, [&](Index r) {
        float* to = x.data + r * x.columns;
        const float* from = y + r * x.columns;
        for (Index i = 0; i < x.columns; ++i) to[i] += from[i];
    });
}

void Cpu::delta_net(const DeltaNetBlock& w, const Residual& x, std::span<const Part<DeltaState>> parts) {
    const Index rows = x.rows, channels = w.qkv.out(), heads = w.value_heads, values = w.z.out();
    const auto [y, qkv, z, b, a, mixed, o] =
        block_rows(rows, {x.columns, channels, values, heads, heads, channels, values});
    rms_norm(heads_of(x.data, rows, 1, x.columns, x.columns), w.norm, w.eps, y);
    const Weight* const projections[] = {&w.qkv, &w.z, &w.b, &w.a};
    float* const projected[] = {qkv, z, b, a};
    linears(rows_of(y, 0, rows, x.columns), projections, projected);
    for (const Part<DeltaState>& p : parts) {
        const auto own = [&](const float* data, Index columns) { return rows_of(data, p.begin, p.end, columns); };
        causal_conv_silu(own(qkv, channels), w.conv, *p.state, mixed + p.begin * channels);
        gated_delta_rule(own(mixed, channels), own(a, heads), own(b, heads), w.a_log, w.dt_bias, w.key_heads, *p.state,
                         o + p.begin * values);
    }
    float* gated = mixed;  // has more columns than are needed
    gated_rms_norm(heads_of(o, rows, heads, w.value_dim, w.value_dim), heads_of(z, rows, heads, w.value_dim, w.value_dim),
                   w.gated_norm, w.eps, gated);
    const Weight* const output = &w.output;
    linears(rows_of(gated, 0, rows, values), {&output, 1}, {&y, 1});
    add(x, y);
}

void Cpu::full_attention(const AttentionBlock& w, const Residual& x, std::span<const Part<KvCache>> parts,
                         const Rows& cos, const Rows& sin, const std::function<void()>& between) {
    const Index rows = x.rows, dim = w.dim, wide = w.q.out(), narrow = w.kv_heads * dim, q_stride = wide / w.heads;
    const auto [y, q, k, v, query, key, o] =
        block_rows(rows, {x.columns, wide, narrow, narrow, w.heads * dim, narrow, w.heads * dim});
    rms_norm(heads_of(x.data, rows, 1, x.columns, x.columns), w.norm, w.eps, y);
    const Weight* const projections[] = {&w.q, &w.k, &w.v};
    float* const projected[] = {q, k, v};
    linears(rows_of(y, 0, rows, x.columns), projections, projected);
    norm_rope(heads_of(q, rows, w.heads, q_stride, dim), w.q_norm, w.eps, cos, sin, query);
    norm_rope(heads_of(k, rows, w.kv_heads, dim, dim), w.k_norm, w.eps, cos, sin, key);
    const auto scale = static_cast<float>(std::pow(static_cast<double>(dim), -0.5));
    bool first = true;
    for (const Part<KvCache>& p : parts) {
        const Index length = p.state->length() + p.end - p.begin;
        const Index most = std::max(kSmallestPiece, kPieceWork / (w.heads * dim * length));
        for (Index begin = p.begin; begin < p.end; begin += most) {
            if (!first) between();
            first = false;
            const Index end = std::min(begin + most, p.end), n = end - begin;
            attention(heads_of(query + begin * w.heads * dim, n, w.heads, dim, dim),
                      heads_of(key + begin * narrow, n, w.kv_heads, dim, dim),
                      heads_of(v + begin * narrow, n, w.kv_heads, dim, dim), *p.state, scale, o + begin * w.heads * dim);
        }
    }
    float* gated = o;
    if (w.gated) {
        gated = query;
        sigmoid_gate(heads_of(o, rows, w.heads, dim, dim), heads_of(q + dim, rows, w.heads, q_stride, dim), gated);
    }
    const Weight* const output = &w.output;
    linears(rows_of(gated, 0, rows, w.heads * dim), {&output, 1}, {&y, 1});
    add(x, y);
}

void Cpu::norm_route(const Rows& x, const float* norm, float eps, const Weight& router, Index top_k, bool renormalise,
                     float* y, std::int32_t* ids, float* weights) {
    for (Index first = 0; first < x.rows; first += kRouteRows) {
        const Index last = std::min(first + kRouteRows, x.rows);
        rms_norm({x.row(first), last - first, 1, x.columns, x.stride, 0}, norm, eps, y + first * x.columns);
        route(rows_of(y, first, last, x.columns), router, top_k, renormalise, ids + first * top_k, weights + first * top_k);
    }
}

void Cpu::shared_expert(const Rows& y, const SharedExpert& w, float* out, float* share) {
    gated_mlp(y, w.gate, w.up, w.down, out);
    const Weight* const last = &w.share;
    linears(y, {&last, 1}, {&share, 1});
}

void Cpu::add_combined(const Residual& x, const Heads& outputs, const Rows& weights, const Rows* shared,
                       const Rows* share) {
    const auto [sums] = block_rows(x.rows, {x.columns});
    combine(outputs, weights, shared, share, sums);
    add(x, sums);
}

}  // namespace flashmoe
