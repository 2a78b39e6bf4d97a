// Matrix and Layout: weights that stay where they are.
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <map>
#include <tuple>

#include "bindings/bind.hpp"
#include "bindings/handles.hpp"

namespace flashmoe::bindings {
namespace {

// The code width of `words` uint32 a row over `groups` groups of 64, or 0.
int code_bits(Index words, Index groups) {
    for (const int bits : {2, 4, 8})
        if (words * 32 == groups * kGroup * bits) return bits;
    return 0;
}

Matrix affine_matrix(nb::object codes, nb::object scales, nb::object biases, bool exact) {
    const Array<std::uint32_t> c(codes, "codes", 2);
    const Array<std::uint16_t> s(scales, "scales", 2), b(biases, "biases", 2);
    const Index out = c.shape(0), groups = s.shape(1);
    const int bits = code_bits(c.shape(1), groups);
    require(bits != 0, "codes must hold 2, 4 or 8 bits for each of the 64 columns of a scale");
    Weight weight;
    weight.affine = {reinterpret_cast<const std::uint8_t*>(c.exactly({out, c.shape(1)})), s.exactly({out, groups}),
                     b.exactly({out, groups}), out, groups * kGroup, bits};
    weight.exact = exact;
    return {weight, nb::make_tuple(codes, scales, biases)};
}

Matrix dense_matrix(nb::object values) {
    Weight weight;
    weight.is_dense = weight.exact = true;
    const bool bf16 = nb::cast<std::size_t>(values.attr("itemsize")) == 2;
    const auto view = [&](const auto& v) {
        weight.dense = {v.exactly({v.shape(0), v.shape(1)}), v.shape(0), v.shape(1), bf16};
    };
    if (bf16) view(Array<std::uint16_t>(values, "values", 2));
    else view(Floats(values, "values", 2));
    return {weight, values};
}

// Of each part: name, rows, columns, offset in the record.
using Parts = std::vector<std::tuple<std::string, Index, Index, Index>>;

Layout make_layout(const Parts& parts, Index record_bytes) {
    std::map<std::string, std::tuple<Index, Index, Index>> found;
    for (const auto& [name, rows, columns, offset] : parts) found[name] = {rows, columns, offset};
    const auto take = [&](const std::string& name, Index item) {
        if (!found.count(name)) refuse("the record's layout has no part '" + name + "'");
        const auto [rows, columns, offset] = found[name];
        const bool sane = rows > 0 && columns > 0 && rows < (1 << 30) && columns < (1 << 30) && offset >= 0 &&
                          offset % item == 0 && offset <= record_bytes - rows * columns * item;
        if (!sane) refuse("part '" + name + "' does not lie within the record of " + std::to_string(record_bytes) + " bytes");
        return found[name];
    };
    const auto matrix = [&](const std::string& name) {
        const auto [out, words, codes] = take(name + ".weight", 4);
        const auto [scale_rows, groups, scales] = take(name + ".scales", 2);
        const auto [bias_rows, bias_groups, biases] = take(name + ".biases", 2);
        const int bits = code_bits(words, groups);
        if (bits == 0 || scale_rows != out || bias_rows != out || bias_groups != groups)
            refuse("the shapes of '" + name + "' in the record's layout do not belong together");
        return Layout::Part{codes, scales, biases, out, groups * kGroup, bits};
    };
    const Layout layout{matrix("gate"), matrix("up"), matrix("down"), record_bytes};
    require(layout.gate.out == layout.up.out && layout.gate.in == layout.up.in && layout.down.in == layout.gate.out &&
                layout.down.out == layout.gate.in,
            "gate, up and down in the record's layout do not fit one another");
    return layout;
}

}  // namespace

}  // namespace flashmoe::bindings

void flashmoe::bind_weights(nanobind::module_& m) {
    using namespace flashmoe::bindings;
    nb::class_<Matrix>(m, "Matrix", "A matrix of the trunk, looking into arrays that it keeps alive.")
        .def_static("affine", &affine_matrix, nb::arg("codes"), nb::arg("scales"), nb::arg("biases"), nb::arg("exact"))
        .def_static("dense", &dense_matrix, nb::arg("values"))
        .def_prop_ro("out_features", [](const Matrix& w) { return w.weight.out(); })
        .def_prop_ro("in_features", [](const Matrix& w) { return w.weight.in(); })
        .def_prop_ro("exact", [](const Matrix& w) { return w.weight.exact; });
    nb::class_<Layout>(m, "Layout", "Where the nine arrays of one expert lie in its record.")
        .def("__init__", [](Layout* self, const Parts& parts, Index record_bytes) {
            new (self) Layout(make_layout(parts, record_bytes));
        }, nb::arg("parts"), nb::arg("record_bytes"))
        .def_ro("record_bytes", &Layout::record_bytes);
}
