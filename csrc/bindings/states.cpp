// KvCache and DeltaState, with what saving and resuming a sequence needs. A call on a state that another thread changes
// is refused.
#include "bindings/bind.hpp"
#include "bindings/handles.hpp"

namespace flashmoe::bindings {
namespace {

void check_positive(std::initializer_list<Index> sizes) {
    for (const Index n : sizes) require(n > 0 && n < (1 << 28), "every size of a state must be positive");
}

KvCache fork(const KvCache& cache, Index length) {
    const auto hold = cache.use.look();
    require(0 <= length && length <= cache.length(), "a fork cannot be longer than its cache");
    return cache.fork(length);
}

void read_rows(const KvCache& cache, Index first, Index last, nb::handle rows) {
    const auto hold = cache.use.look();
    require(0 <= first && first <= last && last <= cache.length(), "no such tokens in the cache");
    const Array<std::uint8_t> out(rows, "rows", 2, Access::write);
    std::uint8_t* to = out.exactly({last - first, cache.row_bytes()});
    const nb::gil_scoped_release release;
    cache.read(first, last, to);
}

void append(KvCache& cache, nb::handle rows) {
    const auto hold = cache.use.change();
    const Array<std::uint8_t> in(rows, "rows", 2);
    const Index tokens = in.shape(0);
    const std::uint8_t* from = in.exactly({tokens, cache.row_bytes()});
    const nb::gil_scoped_release release;
    cache.append_rows(tokens, from);
}

void read_state(const DeltaState& state, nb::handle values) {
    const auto hold = state.use.look();
    const Floats out(values, "values", 1, Access::write);
    float* to = out.exactly({state.floats()});
    const nb::gil_scoped_release release;
    state.read(to);
}

void write_state(DeltaState& state, nb::handle values) {
    const auto hold = state.use.change();
    const Floats in(values, "values", 1);
    const float* from = in.exactly({state.floats()});
    const nb::gil_scoped_release release;
    state.write(from);
}

Index length(const KvCache& cache) {
    const auto hold = cache.use.look();
    return cache.length();
}

nb::list blocks(const KvCache& cache) {
    const auto hold = cache.use.look();
    nb::list result;
    for (const std::uint8_t* block : cache.blocks()) result.append(reinterpret_cast<std::uintptr_t>(block));
    return result;
}

}  // namespace

}  // namespace flashmoe::bindings

void flashmoe::bind_states(nanobind::module_& m) {
    using namespace flashmoe::bindings;
    nb::class_<KvCache>(m, "KvCache", "Keys and values of one attention layer.")
        .def("__init__", [](KvCache* self, Index heads, Index dim, int bits) {
            check_positive({heads, dim});
            require(bits == 16 || bits == 8, "keys and values have 16 or 8 bits");
            new (self) KvCache(heads, dim, bits);
        }, nb::arg("kv_heads"), nb::arg("head_dim"), nb::arg("bits") = 16)
        .def_prop_ro("length", &length)
        .def_prop_ro("kv_heads", &KvCache::heads)
        .def_prop_ro("head_dim", &KvCache::dim)
        .def_prop_ro("row_bytes", &KvCache::row_bytes)
        .def_prop_ro("block_bytes", &KvCache::block_bytes)
        .def_prop_ro("blocks", &blocks)
        .def("fork", &fork, nb::arg("length"))
        .def("read", &read_rows, nb::arg("first"), nb::arg("last"), nb::arg("rows"))
        .def("append", &append, nb::arg("rows"));
    nb::class_<DeltaState>(m, "DeltaState", "State of one GatedDeltaNet layer.")
        .def("__init__", [](DeltaState* self, Index channels, Index kernel, Index heads, Index key_dim, Index value_dim) {
            check_positive({channels, kernel, heads, key_dim, value_dim});
            require(kernel <= 16, "convolution kernels of more than 16 taps are not supported");
            new (self) DeltaState(channels, kernel, heads, key_dim, value_dim);
        }, nb::arg("channels"), nb::arg("kernel"), nb::arg("value_heads"), nb::arg("key_dim"), nb::arg("value_dim"))
        .def_ro("value_heads", &DeltaState::value_heads)
        .def_ro("value_dim", &DeltaState::value_dim)
        .def("fork", [](const DeltaState& self) {
            const auto hold = self.use.look();
            return DeltaState(self);
        })
        .def_prop_ro("nbytes", [](const DeltaState& self) { return 4 * self.floats(); })
        .def("read", &read_state, nb::arg("values"))
        .def("write", &write_state, nb::arg("values"));
}
