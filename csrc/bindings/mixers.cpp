// Cpu's attention, GatedDeltaNet and row operations.
#include "bindings/cpu.hpp"

namespace flashmoe::bindings {
namespace {

void rms_norm(CpuHandle& self, nb::handle x, nb::handle weight, float eps, nb::handle out) {
    const Floats input(x, "x", 2), w(weight, "weight", 1), o(out, "out", 2, Access::write);
    const Index n = input.shape(0), width = input.shape(1);
    require(width > 0, "x has no columns");
    const float* scale = w.exactly({width});
    float* to = o.exactly({n, width});
    self.run([&](Cpu& cpu) { cpu.rms_norm({input.data(), n, 1, width, input.stride(0), 0}, scale, eps, to); });
}

void norm_rope(CpuHandle& self, nb::handle x, nb::handle weight, float eps, nb::handle cos, nb::handle sin,
               nb::handle out) {
    const Floats input(x, "x", 3), w(weight, "weight", 1), c(cos, "cos", 2), s(sin, "sin", 2),
        o(out, "out", 3, Access::write);
    const Index tokens = input.shape(0), width = input.shape(2), half = c.shape(1);
    require(width > 0 && 2 * half <= width, "cos and sin turn more dimensions than a head has");
    c.expect({tokens, half});
    s.expect({tokens, half});
    const float* scale = w.exactly({width});
    float* to = o.exactly({tokens, input.shape(1), width});
    self.run([&](Cpu& cpu) { cpu.norm_rope(heads(input), scale, eps, rows(c), rows(s), to); });
}

void sigmoid_gate(CpuHandle& self, nb::handle x, nb::handle gate, nb::handle out) {
    const Floats input(x, "x", 3), g(gate, "gate", 3), o(out, "out", 2, Access::write);
    g.expect({input.shape(0), input.shape(1), input.shape(2)});
    float* to = o.exactly({input.shape(0), input.shape(1) * input.shape(2)});
    self.run([&](Cpu& cpu) { cpu.sigmoid_gate(heads(input), heads(g), to); });
}

void gated_rms_norm(CpuHandle& self, nb::handle x, nb::handle z, nb::handle weight, float eps, nb::handle out) {
    const Floats input(x, "x", 3), gate(z, "z", 2), w(weight, "weight", 1), o(out, "out", 2, Access::write);
    const Index tokens = input.shape(0), count = input.shape(1), width = input.shape(2);
    require(width > 0, "x has no columns");
    gate.expect({tokens, count * width});
    const float* scale = w.exactly({width});
    float* to = o.exactly({tokens, count * width});
    const Heads gates{gate.data(), tokens, count, width, gate.stride(0), width};
    self.run([&](Cpu& cpu) { cpu.gated_rms_norm(heads(input), gates, scale, eps, to); });
}

void attention(CpuHandle& self, nb::handle q, nb::handle k, nb::handle v, KvCache& cache, float scale, nb::handle out) {
    const Floats queries(q, "q", 3), keys(k, "k", 3), values(v, "v", 3), o(out, "out", 3, Access::write);
    const Index tokens = queries.shape(0), count = queries.shape(1);
    keys.expect({tokens, cache.heads(), cache.dim()});
    values.expect({tokens, cache.heads(), cache.dim()});
    require(queries.shape(2) == cache.dim(), "q has another head dimension than the cache");
    require(count % cache.heads() == 0, "q's heads are not a multiple of the cache's");
    float* to = o.exactly({tokens, count, cache.dim()});
    self.run([&](Cpu& cpu) { cpu.attention(heads(queries), heads(keys), heads(values), cache, scale, to); });
}

void causal_conv_silu(CpuHandle& self, nb::handle x, nb::handle weight, DeltaState& state, nb::handle out) {
    const Floats input(x, "x", 2), w(weight, "weight", 2), o(out, "out", 2, Access::write);
    input.expect({input.shape(0), state.channels});
    const float* taps = w.exactly({state.channels, state.kernel});
    float* to = o.exactly({input.shape(0), state.channels});
    self.run([&](Cpu& cpu) { cpu.causal_conv_silu(rows(input), taps, state, to); });
}

void gated_delta_rule(CpuHandle& self, nb::handle qkv, nb::handle a, nb::handle b, nb::handle a_log, nb::handle dt_bias,
                      Index key_heads, DeltaState& state, nb::handle out) {
    const Floats input(qkv, "qkv", 2), da(a, "a", 2), db(b, "b", 2), log(a_log, "a_log", 1), bias(dt_bias, "dt_bias", 1),
        o(out, "out", 3, Access::write);
    const Index tokens = input.shape(0), count = state.value_heads;
    require(key_heads > 0 && count % key_heads == 0, "the value heads are not a multiple of the key heads");
    input.expect({tokens, 2 * key_heads * state.key_dim + count * state.value_dim});
    da.expect({tokens, count});
    db.expect({tokens, count});
    const float *rates = log.exactly({count}), *offsets = bias.exactly({count});
    float* to = o.exactly({tokens, count, state.value_dim});
    self.run([&](Cpu& cpu) {
        cpu.gated_delta_rule(rows(input), rows(da), rows(db), rates, offsets, key_heads, state, to);
    });
}

}  // namespace

void bind_mixers(nb::class_<CpuHandle>& cpu) {
    cpu.def("rms_norm", &rms_norm)
        .def("norm_rope", &norm_rope)
        .def("sigmoid_gate", &sigmoid_gate)
        .def("gated_rms_norm", &gated_rms_norm)
        .def("attention", &attention)
        .def("causal_conv_silu", &causal_conv_silu)
        .def("gated_delta_rule", &gated_delta_rule);
}

}  // namespace flashmoe::bindings
