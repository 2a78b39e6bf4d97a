// KvCache and DeltaState, with the contents that a snapshot needs.
#include <nanobind/ndarray.h>

#include "bindings/bind.hpp"
#include "bindings/handles.hpp"

namespace flashmoe::bindings {
namespace {

template <class... Shape>
auto view_of(std::vector<float>& values, nb::handle owner, Shape... shape) {
    const std::size_t extents[] = {static_cast<std::size_t>(shape)...};
    return nb::ndarray<nb::numpy, float>(values.data(), sizeof...(shape), extents, owner);
}

void check_positive(std::initializer_list<Index> sizes) {
    for (const Index n : sizes) require(n > 0 && n < (1 << 28), "every size of a state must be positive");
}

void read(const KvCache& cache, Index first, Index last, nb::handle keys, nb::handle values) {
    require(0 <= first && first <= last && last <= cache.length(), "no such tokens in the cache");
    const Array<std::uint16_t> k(keys, "keys", 3, Access::write), v(values, "values", 3, Access::write);
    cache.read(first, last, k.exactly({last - first, cache.heads(), cache.dim()}),
               v.exactly({last - first, cache.heads(), cache.dim()}));
}

void append(KvCache& cache, nb::handle keys, nb::handle values) {
    const Array<std::uint16_t> k(keys, "keys", 3), v(values, "values", 3);
    const Index tokens = k.shape(0);
    cache.append_f16(tokens, k.exactly({tokens, cache.heads(), cache.dim()}),
                     v.exactly({tokens, cache.heads(), cache.dim()}));
}

}  // namespace

}  // namespace flashmoe::bindings

void flashmoe::bind_states(nanobind::module_& m) {
    using namespace flashmoe::bindings;
    nb::class_<KvCache>(m, "KvCache", "Keys and values of one attention layer as float16.")
        .def("__init__", [](KvCache* self, Index heads, Index dim) {
            check_positive({heads, dim});
            new (self) KvCache(heads, dim);
        }, nb::arg("kv_heads"), nb::arg("head_dim"))
        .def_prop_ro("length", &KvCache::length)
        .def_prop_ro("kv_heads", &KvCache::heads)
        .def_prop_ro("head_dim", &KvCache::dim)
        .def("read", &read, nb::arg("first"), nb::arg("last"), nb::arg("keys"), nb::arg("values"),
             "Copy tokens first .. last - 1 into keys and values, float16 bits as uint16 [n, kv_heads, head_dim].")
        .def("append", &append, nb::arg("keys"), nb::arg("values"), "Append what `read` gave.");
    nb::class_<DeltaState>(m, "DeltaState", "State of one GatedDeltaNet layer; conv and recurrent are writable views.")
        .def("__init__", [](DeltaState* self, Index channels, Index kernel, Index heads, Index key_dim, Index value_dim) {
            check_positive({channels, kernel, heads, key_dim, value_dim});
            require(kernel <= 16, "convolution kernels of more than 16 taps are not supported");
            new (self) DeltaState(channels, kernel, heads, key_dim, value_dim);
        }, nb::arg("channels"), nb::arg("kernel"), nb::arg("value_heads"), nb::arg("key_dim"), nb::arg("value_dim"))
        .def_ro("value_heads", &DeltaState::value_heads)
        .def_ro("value_dim", &DeltaState::value_dim)
        .def_prop_ro("conv", [](nb::handle self) {
            auto& s = nb::cast<DeltaState&>(self);
            return view_of(s.conv, self, s.kernel - 1, s.channels);
        })
        .def_prop_ro("recurrent", [](nb::handle self) {
            auto& s = nb::cast<DeltaState&>(self);
            return view_of(s.recurrent, self, s.value_heads, s.key_dim, s.value_dim);
        });
}
