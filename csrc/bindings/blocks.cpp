// Cpu's operations of whole blocks: mixers, routing with its norm, the shared expert, the sum of a layer's experts.
//
// Weights are checked when a block is made, so that a call looks at little but the batch.
#include <nanobind/stl/vector.h>

#include "bindings/bind.hpp"
#include "bindings/cpu.hpp"

namespace flashmoe::bindings {
namespace {

// A block, and the arrays that its weights lie in.
template <class Block>
struct Held {
    Block block;
    nb::object owners;
};
using DeltaNet = Held<DeltaNetBlock>;
using Attention = Held<AttentionBlock>;

const float* vector(nb::handle array, const char* name, Index n) {
    return Floats(array, name, 1).exactly({n});
}

DeltaNet make_delta_net(nb::object norm, const Matrix& qkv, const Matrix& z, const Matrix& b, const Matrix& a,
                        nb::object conv, nb::object a_log, nb::object dt_bias, nb::object gated_norm,
                        const Matrix& output, Index key_heads, float eps) {
    DeltaNetBlock w{};
    w.qkv = qkv.weight, w.z = z.weight, w.b = b.weight, w.a = a.weight, w.output = output.weight;
    const Floats taps(conv, "conv", 2);
    const Index hidden = w.qkv.in(), heads = w.a.out(), channels = w.qkv.out();
    w.key_heads = key_heads, w.value_heads = heads, w.kernel = taps.shape(1), w.eps = eps;
    w.value_dim = Floats(gated_norm, "gated_norm", 1).size();
    const Index keys = channels - heads * w.value_dim;
    require(key_heads > 0 && heads % key_heads == 0, "the value heads are not a multiple of the key heads");
    require(keys > 0 && keys % (2 * key_heads) == 0, "the rows of qkv do not fit the heads");
    w.key_dim = keys / (2 * key_heads);
    for (const Weight* m : {&w.z, &w.b, &w.a}) require(m->in() == hidden, "the projections have different widths");
    require(w.b.out() == heads && w.z.out() == heads * w.value_dim && w.output.in() == w.z.out() &&
                w.output.out() == hidden,
            "qkv, z, b, a and output do not fit one another");
    w.norm = vector(norm, "norm", hidden);
    w.conv = taps.exactly({channels, w.kernel});
    w.a_log = vector(a_log, "a_log", heads);
    w.dt_bias = vector(dt_bias, "dt_bias", heads);
    w.gated_norm = vector(gated_norm, "gated_norm", w.value_dim);
    return {w, nb::make_tuple(norm, conv, a_log, dt_bias, gated_norm, qkv.owners, z.owners, b.owners, a.owners,
                              output.owners)};
}

Attention make_attention(nb::object norm, const Matrix& q, const Matrix& k, const Matrix& v, nb::object q_norm,
                         nb::object k_norm, const Matrix& output, Index heads, Index kv_heads, bool gated, float eps) {
    AttentionBlock w{};
    w.q = q.weight, w.k = k.weight, w.v = v.weight, w.output = output.weight;
    const Index hidden = w.q.in();
    w.heads = heads, w.kv_heads = kv_heads, w.gated = gated, w.eps = eps;
    w.dim = Floats(q_norm, "q_norm", 1).size();
    require(heads > 0 && kv_heads > 0 && heads % kv_heads == 0, "the heads are not a multiple of the key/value heads");
    require(w.k.in() == hidden && w.v.in() == hidden, "the projections have different widths");
    require(w.dim > 0 && w.q.out() == heads * w.dim * (gated ? 2 : 1) && w.k.out() == kv_heads * w.dim &&
                w.v.out() == w.k.out() && w.output.in() == heads * w.dim && w.output.out() == hidden,
            "q, k, v and output do not fit the heads");
    w.norm = vector(norm, "norm", hidden);
    w.q_norm = vector(q_norm, "q_norm", w.dim);
    w.k_norm = vector(k_norm, "k_norm", w.dim);
    return {w, nb::make_tuple(norm, q_norm, k_norm, q.owners, k.owners, v.owners, output.owners)};
}

Residual residual(const Floats& x, Index hidden) {
    return {x.exactly({x.shape(0), hidden}), x.shape(0), hidden};
}

// The states of a batch, for as long as an operation changes them.
template <class State>
std::vector<InUse::Hold> held(const std::vector<Part<State>>& parts) {
    std::vector<InUse::Hold> holds;
    for (const auto& part : parts) holds.push_back(part.state->use.change());
    return holds;
}

// The rows of each sequence, which end where `ends` says.
template <class State>
std::vector<Part<State>> parts_of(const std::vector<Index>& ends, nb::sequence states, Index rows) {
    std::vector<Part<State>> parts;
    Index begin = 0;
    for (nb::handle state : states) {
        require(parts.size() < ends.size(), "there are more states than sequences");
        const Index end = ends[parts.size()];
        require(begin < end && end <= rows, "the sequences do not follow one another in the batch");
        parts.push_back({begin, end, &nb::cast<State&>(state)});
        begin = end;
    }
    require(parts.size() == ends.size() && begin == rows, "the sequences are not the whole batch");
    return parts;
}

void delta_net(CpuHandle& self, nb::handle x, const DeltaNet& weights, const std::vector<Index>& ends,
               nb::sequence states) {
    const DeltaNetBlock& w = weights.block;
    const Floats input(x, "x", 2, Access::write);
    const Residual stream = residual(input, w.qkv.in());
    const auto parts = parts_of<DeltaState>(ends, states, stream.rows);
    for (const auto& p : parts)
        require(p.state->channels == w.qkv.out() && p.state->kernel == w.kernel &&
                    p.state->value_heads == w.value_heads && p.state->key_dim == w.key_dim &&
                    p.state->value_dim == w.value_dim,
                "a state is not of this layer's shape");
    const auto holds = held(parts);
    self.run([&](Cpu& cpu) { cpu.delta_net(w, stream, parts); });
}

void full_attention(CpuHandle& self, nb::handle x, const Attention& weights, const std::vector<Index>& ends,
                    nb::sequence states, nb::handle cos, nb::handle sin) {
    const AttentionBlock& w = weights.block;
    const Floats input(x, "x", 2, Access::write), c(cos, "cos", 2), s(sin, "sin", 2);
    const Residual stream = residual(input, w.q.in());
    const Index half = c.shape(1);
    require(2 * half <= w.dim, "cos and sin turn more dimensions than a head has");
    c.expect({stream.rows, half});
    s.expect({stream.rows, half});
    const auto parts = parts_of<KvCache>(ends, states, stream.rows);
    for (const auto& p : parts)
        require(p.state->heads() == w.kv_heads && p.state->dim() == w.dim, "a cache is not of this layer's shape");
    const auto holds = held(parts);
    const auto listen = [] {
        const nb::gil_scoped_acquire acquired;
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
    };
    self.run([&](Cpu& cpu) { cpu.full_attention(w, stream, parts, rows(c), rows(s), listen); });
}

void rms_norm(CpuHandle& self, nb::handle x, nb::handle weight, float eps, nb::handle out) {
    const Floats input(x, "x", 2), w(weight, "weight", 1), o(out, "out", 2, Access::write);
    const Index n = input.shape(0), width = input.shape(1);
    require(width > 0, "x has no columns");
    const float* scale = w.exactly({width});
    float* to = o.exactly({n, width});
    self.run([&](Cpu& cpu) { cpu.rms_norm({input.data(), n, 1, width, input.stride(0), 0}, scale, eps, to); });
}

void route(CpuHandle& self, nb::handle x, nb::handle norm, float eps, const Matrix& router, Index top_k,
           bool renormalise, nb::handle y, nb::handle ids, nb::handle weights) {
    const Floats input(x, "x", 2), scale(norm, "norm", 1), normal(y, "y", 2, Access::write),
        w(weights, "weights", 2, Access::write);
    const Array<std::int32_t> i(ids, "ids", 2, Access::write);
    const Index tokens = input.shape(0), width = router.weight.in();
    require(width == input.shape(1), "x has another width than the router has columns");
    require(top_k >= 1 && top_k <= router.weight.out(), "top_k must be between 1 and the number of experts");
    const float* factors = scale.exactly({width});
    float* to = normal.exactly({tokens, width});
    std::int32_t* chosen = i.exactly({tokens, top_k});
    float* shares = w.exactly({tokens, top_k});
    self.run([&](Cpu& cpu) {
        cpu.norm_route(rows(input), factors, eps, router.weight, top_k, renormalise, to, chosen, shares);
    });
}

void shared_expert(CpuHandle& self, nb::handle y, const Matrix& gate, const Matrix& up, const Matrix& down,
                   const Matrix& share, nb::handle out, nb::handle shares) {
    const Floats input(y, "y", 2), o(out, "out", 2, Access::write), s(shares, "shares", 2, Access::write);
    const SharedExpert w{gate.weight, up.weight, down.weight, share.weight};
    const Index tokens = input.shape(0);
    require(w.gate.in() == input.shape(1) && w.up.in() == w.gate.in() && w.up.out() == w.gate.out() &&
                w.down.in() == w.gate.out() && w.share.in() == w.gate.in() && w.share.out() == 1,
            "gate, up, down, share and y do not fit one another");
    float* to = o.exactly({tokens, w.down.out()});
    float* gates = s.exactly({tokens, 1});
    self.run([&](Cpu& cpu) { cpu.shared_expert(rows(input), w, to, gates); });
}

void combine(CpuHandle& self, nb::handle x, nb::handle outputs, nb::handle weights, nb::handle shared,
             nb::handle shares) {
    const Floats input(x, "x", 2, Access::write), y(outputs, "outputs", 2), w(weights, "weights", 2);
    const Index tokens = input.shape(0), width = input.shape(1), ranks = w.shape(1);
    const Residual stream = residual(input, width);
    const float* from = y.exactly({tokens * ranks, width});
    w.expect({tokens, ranks});
    const Heads by_rank{from, tokens, ranks, width, ranks * width, width};
    require(shared.is_none() == shares.is_none(), "shared and shares come together");
    if (shared.is_none()) {
        self.run([&](Cpu& cpu) { cpu.add_combined(stream, by_rank, rows(w), nullptr, nullptr); });
        return;
    }
    const Floats sh(shared, "shared", 2), g(shares, "shares", 2);
    sh.expect({tokens, width});
    g.expect({tokens, 1});
    const Rows values = rows(sh), gates = rows(g);
    self.run([&](Cpu& cpu) { cpu.add_combined(stream, by_rank, rows(w), &values, &gates); });
}

}  // namespace

void bind_blocks(nb::module_& m, nb::class_<CpuHandle>& cpu) {
    nb::class_<DeltaNet>(m, "DeltaNet", "The weights of a GatedDeltaNet layer.").def(nb::new_(&make_delta_net));
    nb::class_<Attention>(m, "Attention", "The weights of a full attention layer.").def(nb::new_(&make_attention));
    cpu.def("rms_norm", &rms_norm)
        .def("delta_net", &delta_net)
        .def("full_attention", &full_attention)
        .def("route", &route)
        .def("shared_expert", &shared_expert)
        .def("combine", &combine, nb::arg("x"), nb::arg("outputs"), nb::arg("weights"), nb::arg("shared").none(),
             nb::arg("shares").none());
}

}  // namespace flashmoe::bindings
