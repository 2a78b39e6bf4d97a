// Projections, the rows of an embedding, and the router.
#include <algorithm>
#include <atomic>

#include "backend/cpu.hpp"

namespace flashmoe {
namespace {

constexpr Index kChunksAThread = 16;
constexpr Index kChunkBytes = 128 * 1024, kSmallestChunkBytes = 16 * 1024;

// The k largest of p by falling value, the lower index first among equals; NaN counts as smallest.
void top_k(const float* p, Index n, Index k, std::int32_t* ids, float* values) {
    for (Index i = 0; i < n; ++i) {
        Index at = std::min(i, k);
        while (at > 0 && p[i] > values[at - 1]) --at;
        if (at == k) continue;
        for (Index j = std::min(i, k - 1); j > at; --j) {
            values[j] = values[j - 1];
            ids[j] = ids[j - 1];
        }
        values[at] = p[i];
        ids[at] = static_cast<std::int32_t>(i);
    }
}

}  // namespace

Index Weight::row_bytes() const {
    if (is_dense) return dense.in * (dense.bf16 ? 2 : 4);
    return affine.row_bytes() + 4 * affine.groups();
}

// Chunks of equal bytes, so many for each thread that none waits long for the last ones, each large enough for the
// stream to pay.
Index Cpu::chunk_bytes(Index total, Index largest) const {
    return std::clamp(total / (pool_.threads() * kChunksAThread), kSmallestChunkBytes, largest);
}

void Cpu::cut(std::span<const Weight* const> weights, Index rows) {
    Index total = 0;
    for (const Weight* w : weights) total += w->out() * w->row_bytes();
    const Index bytes = chunk_bytes(total, kChunkBytes);
    chunks_.clear();
    for (std::size_t m = 0; m < weights.size(); ++m) {
        const Index wanted = std::max<Index>(1, bytes / std::max<Index>(1, weights[m]->row_bytes()));
        const Index together = round_up(wanted, piece_rows(rows));
        for (Index n = 0; n < weights[m]->out(); n += together)
            chunks_.push_back({m, n, std::min(n + together, weights[m]->out())});
    }
}

float* Cpu::scratch(Index floats) { return scratch_.reserve(floats * pool_.threads()); }

void Cpu::quantise(const Rows& x, Widths widths) {
    inputs_.prepare(x.rows, x.columns, widths);
    for_rows(x.rows, x.columns, [&](Index r) { inputs_.quantise_row(kernels_, r, x.row(r)); });
    gather(inputs_, x.rows);
}

void Cpu::gather(Activations& x, Index rows) {
    if (rows < kManyRows) return;
    constexpr Index kTogether = 16;
    x.prepare_gathered(kernels_, rows);
    pool_.run(static_cast<std::uint32_t>(ceil_div(rows, kTogether)), [&](std::uint32_t chunk, int) {
        x.gather(kernels_, chunk * kTogether, std::min(rows, (chunk + 1) * kTogether));
    });
}

void Cpu::linears(const Rows& x, std::span<const Weight* const> weights, std::span<float* const> outs) {
    Widths widths;
    bool any = false;
    for (const Weight* w : weights)
        if (w->int8()) {
            widths.add(w->affine.bits);
            any = true;
        }
    if (any) quantise(x, widths);
    quantised_rows_.clear();
    float_rows_.clear();
    for (std::size_t m = 0; m < weights.size(); ++m)
        for (Index r = 0; r < x.rows; ++r) {
            float* out = outs[m] + r * weights[m]->out();
            float_rows_.push_back({x.row(r), out});
            quantised_rows_.push_back(weights[m]->int8() ? inputs_.row(r, weights[m]->affine.bits, out)
                                                         : QuantisedRow{});
        }
    cut(weights, x.rows);
    pool_.run(static_cast<std::uint32_t>(chunks_.size()), [&](std::uint32_t i, int) {
        const Chunk& c = chunks_[i];
        const Weight& w = *weights[c.matrix];
        const std::size_t row = c.matrix * static_cast<std::size_t>(x.rows);
        if (w.int8())
            kernels_.affine_rows(w.affine, c.first, c.last, quantised_rows_.data() + row, x.rows,
                                 inputs_.gathered(kernels_, w.affine.bits));
        else if (w.is_dense) kernels_.dense_rows(w.dense, c.first, c.last, float_rows_.data() + row, x.rows);
        else kernels_.exact_affine_rows(w.affine, c.first, c.last, float_rows_.data() + row, x.rows);
    });
}

void Cpu::embed(const Weight& table, std::span<const std::int32_t> ids, float* out) {
    for_rows(static_cast<Index>(ids.size()), table.in(), [&](Index r) {
        const Index id = ids[static_cast<std::size_t>(r)];
        if (table.is_dense) kernels_.embed_dense(table.dense, id, out + r * table.in());
        else kernels_.embed_affine(table.affine, id, out + r * table.in());
    });
}

void Cpu::route(const Rows& x, const Weight& router, Index k, bool renormalise, std::int32_t* ids, float* weights) {
    const Index experts = router.out();
    float* scores = values_.reserve(x.rows * experts);
    const Weight* const matrix = &router;
    linears(x, {&matrix, 1}, {&scores, 1});
    for_rows(x.rows, experts * 4, [&](Index r) {
        float* p = scores + r * experts;
        float* chosen = weights + r * k;
        kernels_.softmax(p, experts);
        top_k(p, experts, k, ids + r * k, chosen);
        if (!renormalise) return;
        float total = 0;
        for (Index i = 0; i < k; ++i) total += chosen[i];
        for (Index i = 0; i < k; ++i) chosen[i] /= total;
    });
}

std::uint32_t Cpu::read_all(const std::uint8_t* bytes, Index n) {
    std::atomic<std::uint32_t> total{0};
    pool_.run(static_cast<std::uint32_t>(ceil_div(n, kChunkBytes)), [&](std::uint32_t chunk, int) {
        const Index first = chunk * kChunkBytes;
        total += static_cast<std::uint32_t>(kernels_.read_all(bytes + first, std::min(kChunkBytes, n - first)));
    });
    return total;
}

}  // namespace flashmoe
