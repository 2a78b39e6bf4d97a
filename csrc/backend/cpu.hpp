// The operations of ops/interface.py on this machine's processor: cuts them into chunks for the pool and calls the
// kernels. Arguments are trusted here; bindings/cpu.cpp checks them.
//
// Invariant: a row of a result has the same bits for any number of threads, rows and chunks. One operation runs at a
// time (the scratch memory is shared), so callers hold `lock()`.
#pragma once

#include <algorithm>
#include <array>
#include <functional>
#include <mutex>
#include <span>
#include <vector>

#include "backend/activations.hpp"
#include "backend/blocks.hpp"
#include "kernels/dispatch.hpp"
#include "threads/pool.hpp"

namespace flashmoe {

struct Mlp {
    AffineView gate, up, down;
};

// Where the arrays of one expert lie in its record.
struct Layout {
    struct Part {
        Index codes, scales, biases, out, in;
        int bits;
        AffineView view(const std::uint8_t* record) const;
    };
    Part gate, up, down;
    Index record_bytes;

    Mlp at(const std::uint8_t* record) const { return {gate.view(record), up.view(record), down.view(record)}; }
};

// One MLP and the entries [begin, end) that it computes.
struct MlpWork {
    Mlp weights;
    Index begin, end;
};

class Cpu {
public:
    Cpu(int threads, const Kernels& kernels) : kernels_(kernels), pool_(threads) {}

    const Kernels& kernels() const { return kernels_; }
    Pool& pool() { return pool_; }
    std::unique_lock<std::mutex> lock() { return std::unique_lock(mutex_); }

    // outs[m] is [rows, weights[m].out], contiguous; so are the other outputs.
    void linears(const Rows& x, std::span<const Weight* const> weights, std::span<float* const> outs);
    void gated_mlp(const Rows& x, const Weight& gate, const Weight& up, const Weight& down, float* out);
    // Entry j multiplies row rows[j] of x into outs[j].
    void mlps(const Rows& x, std::span<const MlpWork> work, const std::int32_t* rows, std::span<float* const> outs);
    void embed(const Weight& table, std::span<const std::int32_t> ids, float* out);
    void route(const Rows& x, const Weight& router, Index top_k, bool renormalise, std::int32_t* ids, float* weights);

    void rms_norm(const Heads& x, const float* weight, float eps, float* out);
    void norm_rope(const Heads& x, const float* weight, float eps, const Rows& cos, const Rows& sin, float* out);
    void gated_rms_norm(const Heads& x, const Heads& z, const float* weight, float eps, float* out);
    void sigmoid_gate(const Heads& x, const Heads& gate, float* out);
    void combine(const Heads& outputs, const Rows& weights, const Rows* shared, const Rows* shared_gate, float* out);

    void attention(const Heads& q, const Heads& k, const Heads& v, KvCache& cache, float scale, float* out);
    void causal_conv_silu(const Rows& x, const float* weight, DeltaState& state, float* out);
    void gated_delta_rule(const Rows& qkv, const Rows& a, const Rows& b, const float* a_log, const float* dt_bias,
                          Index key_heads, DeltaState& state, float* out);

    // Whole steps of a layer, of the operations above: rows x [rows, hidden] of the residual stream, in place.
    // between: called between pieces of a long attention; it may throw.
    void delta_net(const DeltaNetBlock& w, const Residual& x, std::span<const Part<DeltaState>> parts);
    void full_attention(const AttentionBlock& w, const Residual& x, std::span<const Part<KvCache>> parts,
                        const Rows& cos, const Rows& sin, const std::function<void()>& between);
    // y: the normalised rows.
    void norm_route(const Rows& x, const float* norm, float eps, const Weight& router, Index top_k, bool renormalise,
                    float* y, std::int32_t* ids, float* weights);
    // share [rows, 1]: what its gate says, before the sigmoid.
    void shared_expert(const Rows& y, const SharedExpert& w, float* out, float* share);
    void add_combined(const Residual& x, const Heads& outputs, const Rows& weights, const Rows* shared,
                      const Rows* share);

    // Reads n bytes as the products read weights; see Kernels::read_all.
    std::uint32_t read_all(const std::uint8_t* bytes, Index n);

private:
    // Rows [first, last) of one of several matrices.
    struct Chunk {
        std::size_t matrix;
        Index first, last;
    };

    void quantise(const Rows& x, Widths widths);
    // Of all rows, if they are many.
    void gather(Activations& x, Index rows);
    // Bytes of weights for one chunk of work on `total`, at most `largest`.
    Index chunk_bytes(Index total, Index largest) const;
    // For so many rows of activations.
    void cut(std::span<const Weight* const> weights, Index rows);
    // `floats` floats of scratch for each worker.
    float* scratch(Index floats);
    // Calls body(row) for n rows that cost about `work` multiplications each.
    template <class Body>
    void for_rows(Index n, Index work, const Body& body);
    // Rows [first, last) of a group of 64 hidden elements, for entries [begin, end).
    struct HiddenPiece {
        Index group, begin, end, first, last;
    };
    void mlp_project(const MlpWork& work, const HiddenPiece& piece, const std::int32_t* rows, float* values,
                     const std::uint8_t* gathered);
    // Entries [begin, end), whose input rows these are, as gate and up take them.
    void mlp_gather(const MlpWork& work, Index begin, Index end, const std::int32_t* rows, std::uint8_t* to) const;
    void mlp_activate(const HiddenPiece& piece, float* values);
    void mlp_hidden(std::span<const MlpWork> work, Index groups, const std::int32_t* rows);
    void mlp_hidden_finely(std::span<const MlpWork> work, Index groups, Index entries, const std::int32_t* rows);
    // An array of rows for each width, in the scratch memory of the operations of whole blocks.
    template <std::size_t N>
    std::array<float*, N> block_rows(Index rows, const Index (&columns)[N]);
    void add(const Residual& x, const float* y);

    const Kernels& kernels_;
    Pool pool_;
    std::mutex mutex_;
    Activations inputs_, hidden_;
    AlignedArray<float> scratch_, values_, more_values_, block_;
    std::vector<QuantisedRow> quantised_rows_;
    std::vector<FloatRow> float_rows_;
    std::vector<Chunk> chunks_;
};

// Rows of weights that a piece of work has a multiple of: what is unpacked together for many rows of activations, and half
// of that for few, so that many threads have something to do.
constexpr Index piece_rows(Index activations) { return activations < kManyRows ? kPanelsRows / 2 : kPanelsRows; }

// Small pieces of work are not worth waking a thread for: about 2 us.
constexpr Index kChunkWork = 16384;

template <class Body>
void Cpu::for_rows(Index n, Index work, const Body& body) {
    const Index chunk_rows = std::max<Index>(1, kChunkWork / std::max<Index>(1, work));
    pool_.run(static_cast<std::uint32_t>(ceil_div(n, chunk_rows)), [&](std::uint32_t chunk, int) {
        const Index last = std::min<Index>(n, (chunk + 1) * chunk_rows);
        for (Index r = chunk * chunk_rows; r < last; ++r) body(r);
    });
}

}  // namespace flashmoe
