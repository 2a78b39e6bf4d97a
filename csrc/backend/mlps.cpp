// Gated MLPs: the routed experts and the shared one.
//
// Two regions: the hidden vector, 64 elements a chunk, activated and quantised where they were made; then down.
#include <algorithm>

#include "backend/cpu.hpp"

namespace flashmoe {
namespace {

constexpr Index kEntries = 64;  // entries that go through a piece of weights together, while it is in L2

AffineView rows_of(const AffineView& w, Index first, Index count) {
    AffineView part = w;
    part.codes += first * w.row_bytes();
    part.scales += first * w.groups();
    part.biases += first * w.groups();
    part.out = count;
    return part;
}

}  // namespace

AffineView Layout::Part::view(const std::uint8_t* record) const {
    return {record + codes, reinterpret_cast<const std::uint16_t*>(record + scales),
            reinterpret_cast<const std::uint16_t*>(record + biases), out, in, bits};
}

void Cpu::mlp_hidden(const MlpWork& work, Index group, const std::int32_t* rows, float* scratch) {
    const AffineView gate = rows_of(work.weights.gate, group * kGroup, kGroup);
    const AffineView up = rows_of(work.weights.up, group * kGroup, kGroup);
    float* gates = scratch;
    float* ups = scratch + kEntries * kGroup;
    QuantisedRow tile[kEntries];
    const auto project = [&](const AffineView& w, float* out, Index begin, Index count) {
        for (Index j = 0; j < count; ++j) {
            const Index row = rows ? rows[begin + j] : begin + j;
            tile[j] = inputs_.row(row, w.bits, out + j * kGroup);
        }
        kernels_.affine_rows(w, 0, kGroup, tile, count);
    };
    for (Index begin = work.begin; begin < work.end; begin += kEntries) {
        const Index count = std::min(kEntries, work.end - begin);
        project(gate, gates, begin, count);
        project(up, ups, begin, count);
        for (Index j = 0; j < count; ++j) {
            float* hidden = gates + j * kGroup;
            kernels_.silu_mul(hidden, ups + j * kGroup, kGroup, hidden);
            hidden_.quantise_group(kernels_, begin + j, group, hidden);
        }
    }
}

void Cpu::mlps(const Rows& x, std::span<const MlpWork> work, const std::int32_t* rows, std::span<float* const> outs) {
    if (work.empty() || outs.empty()) return;
    const AffineView& down = work[0].weights.down;
    Widths input_widths, hidden_widths;
    for (const MlpWork& w : work) {
        input_widths.add(w.weights.gate.bits);
        input_widths.add(w.weights.up.bits);
        hidden_widths.add(w.weights.down.bits);
    }
    const auto entries = static_cast<Index>(outs.size());
    inputs_.prepare(x.rows, x.columns, input_widths);
    std::vector<Index> used(rows ? rows : nullptr, rows ? rows + entries : nullptr);
    std::sort(used.begin(), used.end());
    used.erase(std::unique(used.begin(), used.end()), used.end());
    for_rows(rows ? static_cast<Index>(used.size()) : x.rows, x.columns, [&](Index i) {
        const Index row = rows ? used[static_cast<std::size_t>(i)] : i;
        inputs_.quantise_row(kernels_, row, x.row(row));
    });

    const Index groups = down.in / kGroup;
    hidden_.prepare(entries, down.in, hidden_widths);
    float* workers = scratch(2 * kEntries * kGroup);
    pool_.run(static_cast<std::uint32_t>(std::ssize(work) * groups), [&](std::uint32_t chunk, int worker) {
        mlp_hidden(work[chunk / groups], chunk % groups, rows, workers + worker * 2 * kEntries * kGroup);
    });

    const Index chunk_rows = round_up(64 * 1024 / down.row_bytes(), 16);  // in panels of 16
    const Index chunks = ceil_div(down.out, chunk_rows);
    pool_.run(static_cast<std::uint32_t>(std::ssize(work) * chunks), [&](std::uint32_t chunk, int) {
        const MlpWork& w = work[chunk / chunks];
        const Index first = chunk % chunks * chunk_rows, last = std::min(first + chunk_rows, down.out);
        QuantisedRow tile[kEntries];
        for (Index begin = w.begin; begin < w.end; begin += kEntries) {
            const Index count = std::min(kEntries, w.end - begin);
            for (Index j = 0; j < count; ++j)
                tile[j] = hidden_.row(begin + j, w.weights.down.bits, outs[static_cast<std::size_t>(begin + j)]);
            kernels_.affine_rows(w.weights.down, first, last, tile, count);
        }
    });
}

void Cpu::gated_mlp(const Rows& x, const Weight& gate, const Weight& up, const Weight& down, float* out) {
    if (gate.int8() && up.int8() && down.int8()) {
        std::vector<float*> outs;
        for (Index r = 0; r < x.rows; ++r) outs.push_back(out + r * down.out());
        const MlpWork work{{gate.affine, up.affine, down.affine}, 0, x.rows};
        return mlps(x, {&work, 1}, nullptr, outs);
    }
    const Index hidden = gate.out();
    float* gates = values_.reserve(x.rows * hidden);
    float* ups = more_values_.reserve(x.rows * hidden);
    const Weight* const projections[] = {&gate, &up};
    float* const outs[] = {gates, ups};
    linears(x, projections, outs);
    for_rows(x.rows, hidden * 8, [&](Index r) {
        kernels_.silu_mul(gates + r * hidden, ups + r * hidden, hidden, gates + r * hidden);
    });
    const Weight* const last = &down;
    linears({gates, x.rows, hidden, hidden}, {&last, 1}, {&out, 1});
}

}  // namespace flashmoe
