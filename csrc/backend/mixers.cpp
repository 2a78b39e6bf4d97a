// GatedDeltaNet, and the row operations around it and attention.
#include <algorithm>
#include <cmath>

#include "backend/cpu.hpp"

namespace flashmoe {

void Cpu::rms_norm(const Heads& x, const float* weight, float eps, float* out) {
    for_rows(x.tokens * x.heads, x.dim, [&](Index r) {
        kernels_.rms_norm(x.at(r / x.heads, r % x.heads), weight, eps, x.dim, out + r * x.dim);
    });
}

void Cpu::norm_rope(const Heads& x, const float* weight, float eps, const Rows& cos, const Rows& sin, float* out) {
    for_rows(x.tokens * x.heads, 2 * x.dim, [&](Index r) {
        const Index t = r / x.heads;
        kernels_.norm_rope(x.at(t, r % x.heads), weight, eps, x.dim, cos.row(t), sin.row(t), cos.columns,
                           out + r * x.dim);
    });
}

void Cpu::gated_rms_norm(const Heads& x, const Heads& z, const float* weight, float eps, float* out) {
    for_rows(x.tokens * x.heads, 8 * x.dim, [&](Index r) {
        const Index t = r / x.heads, h = r % x.heads;
        kernels_.gated_rms_norm(x.at(t, h), z.at(t, h), weight, eps, x.dim, out + r * x.dim);
    });
}

void Cpu::sigmoid_gate(const Heads& x, const Heads& gate, float* out) {
    for_rows(x.tokens * x.heads, 8 * x.dim, [&](Index r) {
        const Index t = r / x.heads, h = r % x.heads;
        kernels_.sigmoid_gate(x.at(t, h), gate.at(t, h), x.dim, out + r * x.dim);
    });
}

void Cpu::combine(const Heads& outputs, const Rows& weights, const Rows* shared, const Rows* shared_gate, float* out) {
    for_rows(outputs.tokens, outputs.heads * outputs.dim, [&](Index t) {
        kernels_.combine(outputs.at(t, 0), weights.row(t), outputs.heads, shared ? shared->row(t) : nullptr,
                         shared_gate ? *shared_gate->row(t) : 0.0f, outputs.dim, out + t * outputs.dim);
    });
}

void Cpu::causal_conv_silu(const Rows& x, const float* weight, DeltaState& state, float* out) {
    const Index channels = x.columns;
    // Rows of 512 channels and more: a narrow column of a chunk, a page or more from row to row, took five times as long.
    const Index chunk_channels = round_up(std::max<Index>(512, kChunkWork / std::max<Index>(1, 8 * x.rows)), 16);
    const Index floats = chunk_channels * state.kernel;
    float* workers = scratch(floats);
    pool_.run(static_cast<std::uint32_t>(ceil_div(channels, chunk_channels)), [&](std::uint32_t chunk, int worker) {
        const Index c = chunk * chunk_channels;
        ConvWork work{};
        work.x = x.data + c;
        work.x_stride = x.stride;
        work.weight = weight + c * state.kernel;
        work.state = state.conv.data() + c;
        work.state_stride = channels;
        work.out = out + c;
        work.out_stride = channels;
        work.tokens = x.rows;
        work.channels = std::min(chunk_channels, channels - c);
        work.kernel = state.kernel;
        work.taps = workers + worker * floats;
        kernels_.conv(work);
    });
}

void Cpu::gated_delta_rule(const Rows& qkv, const Rows& a, const Rows& b, const float* a_log, const float* dt_bias,
                           Index key_heads, DeltaState& state, float* out) {
    const Index heads = state.value_heads, key_dim = state.key_dim, value_dim = state.value_dim;
    float* decay = values_.reserve(2 * qkv.rows * heads);
    float* beta = decay + qkv.rows * heads;
    for_rows(qkv.rows, heads * 64, [&](Index t) {
        for (Index h = 0; h < heads; ++h) {
            const double step = static_cast<double>(a.row(t)[h]) + dt_bias[h];
            const double softplus = step > 20 ? step : std::log1p(std::exp(step));
            decay[t * heads + h] = static_cast<float>(std::exp(-std::exp(static_cast<double>(a_log[h])) * softplus));
            beta[t * heads + h] = static_cast<float>(1 / (1 + std::exp(-static_cast<double>(b.row(t)[h]))));
        }
    });
    // For each token and key head: q, k, q . k.
    const Index unit = 2 * key_dim + 1;
    float* units = more_values_.reserve(qkv.rows * key_heads * unit);
    for_rows(qkv.rows * key_heads, 4 * key_dim, [&](Index r) {
        const float* q = qkv.row(r / key_heads) + r % key_heads * key_dim;
        float* to = units + r * unit;
        kernels_.normalise_delta(q, q + key_heads * key_dim, key_dim, to, to + key_dim, to + 2 * key_dim);
    });
    const Index parts = state.parts();
    pool_.run(static_cast<std::uint32_t>(heads * parts), [&](std::uint32_t chunk, int) {
        const Index h = chunk / parts, part = chunk % parts, column = part * kDeltaColumns;
        const Index key_head = h / (heads / key_heads);
        DeltaWork work{};
        work.q = units + key_head * unit;
        work.k = work.q + key_dim;
        work.along = work.k + key_dim;
        work.token_stride = key_heads * unit;
        work.v = qkv.data + 2 * key_heads * key_dim + h * value_dim + column;
        work.v_stride = qkv.stride;
        work.decay = decay + h;
        work.beta = beta + h;
        work.gate_stride = heads;
        work.state = state.part(h, part);
        work.out = out + h * value_dim + column;
        work.out_stride = heads * value_dim;
        work.tokens = qkv.rows;
        work.key_dim = key_dim;
        work.columns = state.columns(part);
        kernels_.delta(work);
    });
}

}  // namespace flashmoe
