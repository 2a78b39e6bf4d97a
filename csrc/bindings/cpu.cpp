// The class Cpu: arguments checked with the GIL held, then computed without it.
#include "bindings/cpu.hpp"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <stdexcept>

#include "bindings/bind.hpp"

namespace flashmoe::bindings {
namespace {

int checked_threads(int threads) {
    if (threads < 1 || threads > 1024) refuse("threads must be between 1 and 1024, got " + std::to_string(threads));
    return threads;
}

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const Kernels* kernels : available_kernels()) names.emplace_back(kernels->name);
    return names;
}

void embed(CpuHandle& self, const Matrix& table, nb::handle ids, nb::handle out) {
    const Array<std::int32_t> i(ids, "token_ids", 1);
    const Floats o(out, "out", 2, Access::write);
    i.expect_contiguous();
    for (Index t = 0; t < i.size(); ++t)
        if (i.data()[t] < 0 || i.data()[t] >= table.weight.out())
            refuse("token id " + std::to_string(i.data()[t]) + " is outside the vocabulary of " +
                   std::to_string(table.weight.out()));
    float* to = o.exactly({i.size(), table.weight.in()});
    self.run([&](Cpu& cpu) { cpu.embed(table.weight, {i.data(), static_cast<std::size_t>(i.size())}, to); });
}

void linears(CpuHandle& self, nb::handle x, nb::sequence matrices, nb::sequence outs) {
    const Floats input(x, "x", 2);
    std::vector<const Weight*> weights;
    std::vector<float*> to;
    std::vector<std::unique_ptr<Floats>> outputs;
    for (nb::handle m : matrices) {
        weights.push_back(&nb::cast<const Matrix&>(m).weight);
        require(weights.back()->in() == input.shape(1), "x has another width than a matrix has columns");
    }
    for (nb::handle o : outs) {
        require(to.size() < weights.size(), "there are more outputs than matrices");
        outputs.push_back(std::make_unique<Floats>(o, "out", 2, Access::write));
        to.push_back(outputs.back()->exactly({input.shape(0), weights[to.size()]->out()}));
    }
    require(to.size() == weights.size(), "there are fewer outputs than matrices");
    self.run([&](Cpu& cpu) { cpu.linears(rows(input), weights, to); });
}

// An expert's index arrays: int32, contiguous, each value in [0, limit).
const std::int32_t* indices(const Array<std::int32_t>& a, Index limit, const char* sentence) {
    a.expect_contiguous();
    for (Index i = 0; i < a.size(); ++i) require(a.data()[i] >= 0 && a.data()[i] < limit, sentence);
    return a.data();
}

void experts(CpuHandle& self, nb::handle x, nb::handle arena, const Layout& layout, nb::handle slots, nb::handle starts,
             nb::handle entry_rows, nb::handle outputs, nb::handle out) {
    const Floats input(x, "x", 2), o(out, "out", 2, Access::write);
    const Array<std::uint8_t> records(arena, "arena", 2);
    const Array<std::int32_t> s(slots, "slots", 1), b(starts, "starts", 1), r(entry_rows, "rows", 1),
        t(outputs, "outputs", 1);
    require(layout.gate.in == input.shape(1), "x has another width than the experts' matrices have columns");
    require(records.shape(1) >= layout.record_bytes, "a slot of the arena is smaller than a record");
    require(records.stride(0) % 4 == 0 && reinterpret_cast<std::uintptr_t>(records.data()) % 4 == 0,
            "the arena's slots are not aligned to 4 bytes");
    o.exactly({o.shape(0), layout.down.out});
    b.expect({s.size() + 1});
    t.expect({r.size()});
    const std::int32_t* slot = indices(s, records.shape(0), "a slot lies outside the arena");
    const std::int32_t* start = indices(b, r.size() + 1, "starts lie outside the entries");
    const std::int32_t* row = indices(r, input.shape(0), "rows lie outside x");
    const std::int32_t* target = indices(t, o.shape(0), "outputs lie outside out");
    require(start[0] == 0 && start[s.size()] == r.size(), "starts must begin at 0 and end at the number of entries");

    std::vector<MlpWork> work;
    for (Index e = 0; e < s.size(); ++e) {
        require(start[e] <= start[e + 1], "starts must not fall");
        work.push_back({layout.at(records.data() + slot[e] * records.stride(0)), start[e], start[e + 1]});
    }
    std::vector<float*> outs;
    for (Index j = 0; j < r.size(); ++j) outs.push_back(o.data() + target[j] * layout.down.out);
    self.run([&](Cpu& cpu) { cpu.mlps(rows(input), work, row, outs); });
}

std::uint32_t read_all(CpuHandle& self, nb::handle bytes) {
    const Array<std::uint8_t> b(bytes, "bytes", 1);
    b.expect_contiguous();
    std::uint32_t total = 0;
    self.run([&](Cpu& cpu) { total = cpu.read_all(b.data(), b.size()); });
    return total;
}

}  // namespace

}  // namespace flashmoe::bindings

void flashmoe::bind_cpu(nanobind::module_& m) {
    using namespace flashmoe::bindings;
    nb::class_<CpuHandle> cpu(m, "Cpu", "The operations of a model on this processor; outputs are written in place.");
    cpu.def("__init__", [](CpuHandle* self, int threads, const std::string& isa) {
           new (self) CpuHandle(checked_threads(threads), find_kernels(isa));
       }, nb::arg("threads"), nb::arg("isa") = "")
        .def_static("available_isas", &available_isas, "Instruction sets that run here, best first.")
        .def_prop_ro("isa", [](CpuHandle& self) { return std::string(self.cpu.kernels().name); })
        .def_prop_ro("threads", [](CpuHandle& self) { return self.cpu.pool().threads(); })
        .def_ro("busy_seconds", &CpuHandle::busy_seconds, "Wall time spent in this object's operations.")
        .def("embed", &embed)
        .def("linears", &linears)
        .def("experts", &experts)
        .def("read_all", &read_all, "Read all bytes with all threads: a probe of memory bandwidth.");
    bind_blocks(m, cpu);
}
