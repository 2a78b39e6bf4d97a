// Gated MLPs: the routed experts and the shared one.
//
// Two regions: the hidden vector, whole groups of 64 elements a chunk or less, activated and quantised where they were
// made; then down.
#include <algorithm>
#include <atomic>

#include "backend/cpu.hpp"

namespace flashmoe {
namespace {

constexpr Index kEntries = kRowsTogether;
constexpr Index kGatheredEntries = 4 * kEntries;  // whose inputs lie side by side while they go through all weights
constexpr Index kChunksToShare = 8;  // for each thread: with fewer, the last one is waited for too long

AffineView rows_of(const AffineView& w, Index first, Index count) {
    AffineView part = w;
    part.codes += first * w.row_bytes();
    part.scales += first * w.groups();
    part.biases += first * w.groups();
    part.out = count;
    return part;
}

// The most entries of a piece of work, which all read the same weights.
Index most_entries(std::span<const MlpWork> work) {
    Index most = 0;
    for (const MlpWork& w : work) most = std::max(most, w.end - w.begin);
    return most;
}

}  // namespace

AffineView Layout::Part::view(const std::uint8_t* record) const {
    return {record + codes, reinterpret_cast<const std::uint16_t*>(record + scales),
            reinterpret_cast<const std::uint16_t*>(record + biases), out, in, bits};
}

// Rows [first, last) of the group's gate and up, for entries [begin, end), into `values`: each entry's 64 gates, then its
// 64 ups.
void Cpu::mlp_project(const MlpWork& work, const HiddenPiece& piece, const std::int32_t* rows, float* values,
                      const std::uint8_t* gathered) {
    QuantisedRow tile[kEntries];
    const Index count = piece.end - piece.begin;
    const auto project = [&](const AffineView& w, float* out) {
        for (Index j = 0; j < count; ++j) {
            const Index entry = piece.begin + j;
            tile[j] = inputs_.row(rows ? rows[entry] : entry, w.bits, out + j * 2 * kGroup);
        }
        kernels_.affine_rows(rows_of(w, piece.group * kGroup, kGroup), piece.first, piece.last, tile, count,
                             w.bits == work.weights.gate.bits ? gathered : nullptr);
    };
    project(work.weights.gate, values);
    project(work.weights.up, values + kGroup);
}

void Cpu::mlp_activate(const HiddenPiece& piece, float* values) {
    for (Index entry = piece.begin; entry < piece.end; ++entry, values += 2 * kGroup) {
        kernels_.silu_mul(values, values + kGroup, kGroup, values);
        hidden_.quantise(kernels_, entry, piece.group, 1, values);
    }
}

void Cpu::mlp_gather(const MlpWork& work, Index begin, Index end, const std::int32_t* rows, std::uint8_t* to) const {
    const AffineView& gate = work.weights.gate;
    for (Index entry = begin; entry < end; ++entry)
        kernels_.gather_row(inputs_.row(rows[entry], gate.bits, nullptr), gate.in, gate.bits, entry - begin, end - begin, to);
}

void Cpu::mlp_hidden(std::span<const MlpWork> work, Index groups, const std::int32_t* rows) {
    const Index columns = work.front().weights.gate.in, of_values = 2 * kEntries * kGroup;
    const Index most = std::min(kGatheredEntries, most_entries(work));
    const Index of_gathered = rows ? round_up(kernels_.gathered_bytes(columns, most), 64) / 4 : 0;
    float* workers = scratch(of_values + of_gathered);
    // With many entries a chunk is many groups: what one prefetches behind its rows, the next one needs.
    const Index pieces = std::ssize(work) * groups, shared = pieces / (8 * pool_.threads());
    const bool many = work.back().end - work.front().begin >= kManyRows * std::ssize(work);
    const Index together = many ? std::clamp<Index>(shared, 1, groups) : 1, parts = ceil_div(groups, together);
    pool_.run(static_cast<std::uint32_t>(std::ssize(work) * parts), [&](std::uint32_t chunk, int worker) {
        const MlpWork& w = work[chunk / parts];
        float* values = workers + worker * (of_values + of_gathered);
        auto* own = reinterpret_cast<std::uint8_t*>(values + of_values);
        const Index first = chunk % parts * together, last = std::min(first + together, groups);
        for (Index from = w.begin; from < w.end; from += kGatheredEntries) {
            const Index to = std::min(from + kGatheredEntries, w.end);
            const std::uint8_t* gathered = rows ? nullptr : inputs_.gathered(kernels_, w.weights.gate.bits, from);
            if (rows && to - from >= kManyRows) {
                mlp_gather(w, from, to, rows, own);
                gathered = own;
            }
            for (Index group = first; group < last; ++group)
                for (Index begin = from; begin < to; begin += kEntries) {
                    const HiddenPiece piece{group, begin, std::min(begin + kEntries, to), 0, kGroup};
                    const Index at = kernels_.gathered_bytes(columns, begin - from);
                    mlp_project(w, piece, rows, values, gathered ? gathered + at : nullptr);
                    mlp_activate(piece, values);
                }
        }
    });
}

// The same in pieces of a group; who makes a group's last piece activates it.
void Cpu::mlp_hidden_finely(std::span<const MlpWork> work, Index groups, Index entries, const std::int32_t* rows) {
    const Index together = piece_rows(most_entries(work)), pieces = kGroup / together;
    float* values = values_.reserve(2 * entries * groups * kGroup);
    std::vector<std::atomic<int>> made(work.size() * static_cast<std::size_t>(groups));
    pool_.run(static_cast<std::uint32_t>(std::ssize(work) * groups * pieces), [&](std::uint32_t chunk, int) {
        const Index at = chunk / pieces, first = chunk % pieces * together;
        const MlpWork& w = work[static_cast<std::size_t>(at / groups)];
        const HiddenPiece piece{at % groups, w.begin, w.end, first, first + together};
        float* of_group = values + (piece.group * entries + w.begin) * 2 * kGroup;
        mlp_project(w, piece, rows, of_group, rows ? nullptr : inputs_.gathered(kernels_, w.weights.gate.bits));
        if (made[static_cast<std::size_t>(at)].fetch_add(1, std::memory_order_acq_rel) + 1 == pieces)
            mlp_activate(piece, of_group);
    });
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
    std::vector<char> used(static_cast<std::size_t>(x.rows), rows ? 0 : 1);
    for (Index j = 0; rows && j < entries; ++j) used[static_cast<std::size_t>(rows[j])] = 1;
    for_rows(x.rows, x.columns, [&](Index r) {
        if (used[static_cast<std::size_t>(r)]) inputs_.quantise_row(kernels_, r, x.row(r));
    });
    if (!rows) gather(inputs_, entries);

    const Index groups = down.in / kGroup;
    hidden_.prepare(entries, down.in, hidden_widths);
    const Index most = most_entries(work);
    const bool few = std::ssize(work) * groups < kChunksToShare * pool_.threads() && most <= kEntries;
    if (few) mlp_hidden_finely(work, groups, entries, rows);
    else mlp_hidden(work, groups, rows);

    if (!rows) gather(hidden_, entries);
    // Large chunks where many rows are gathered for each.
    const Index largest = entries >= kManyRows * std::ssize(work) ? 512 * 1024 : 64 * 1024;
    const Index down_bytes = chunk_bytes(std::ssize(work) * down.out * down.row_bytes(), largest);
    const Index chunk_rows = round_up(std::max<Index>(1, down_bytes / down.row_bytes()), piece_rows(most));
    const Index chunks = ceil_div(down.out, chunk_rows);
    pool_.run(static_cast<std::uint32_t>(std::ssize(work) * chunks), [&](std::uint32_t chunk, int) {
        const MlpWork& w = work[chunk / chunks];
        const int bits = w.weights.down.bits;
        const Index first = chunk % chunks * chunk_rows, last = std::min(first + chunk_rows, down.out);
        QuantisedRow tile[kEntries];
        for (Index begin = w.begin; begin < w.end; begin += kEntries) {
            const Index count = std::min(kEntries, w.end - begin);
            for (Index j = 0; j < count; ++j)
                tile[j] = hidden_.row(begin + j, bits, outs[static_cast<std::size_t>(begin + j)]);
            kernels_.affine_rows(w.weights.down, first, last, tile, count, rows ? nullptr : hidden_.gathered(kernels_, bits, begin));
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
