// quantise and dequantise on NumPy arrays: checks shapes, allocates the results, releases the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>

#include "bindings/bind.hpp"
#include "quantise/affine.hpp"

namespace nb = nanobind;

namespace flashmoe {
namespace {

template <typename T>
using Rows = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Result = nb::ndarray<nb::numpy, T, nb::ndim<2>>;

template <typename T>
Result<T> make_result(std::size_t rows, std::size_t columns) {
    auto values = std::make_unique_for_overwrite<T[]>(rows * columns);
    T* data = values.get();
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
    values.release();
    return Result<T>(data, {rows, columns}, owner);
}

[[noreturn]] void refuse(std::size_t row, std::size_t column) {
    const std::string columns = std::to_string(column) + " to " + std::to_string(column + kGroupColumns - 1);
    throw std::invalid_argument("row " + std::to_string(row) +
                                " holds a NaN, an infinity or a range beyond bfloat16 in columns " + columns);
}

template <typename Value, typename Element>
std::tuple<Result<std::uint32_t>, Result<std::uint16_t>, Result<std::uint16_t>> quantise(const Rows<Element>& values,
                                                                                         int bits) {
    const std::size_t rows = values.shape(0);
    const std::size_t columns = values.shape(1);
    if (bits != 2 && bits != 4 && bits != 8) throw std::invalid_argument("bits must be 2, 4 or 8");
    if (columns % kGroupColumns != 0) throw std::invalid_argument("the number of columns must be a multiple of 64");
    const std::size_t words = code_bytes(columns, bits) / 4;
    const std::size_t groups = columns / kGroupColumns;
    auto codes = make_result<std::uint32_t>(rows, words);
    auto scales = make_result<std::uint16_t>(rows, groups);
    auto biases = make_result<std::uint16_t>(rows, groups);
    {
        nb::gil_scoped_release release;
        const auto* in = reinterpret_cast<const Value*>(values.data());
        for (std::size_t row = 0; row < rows; ++row)
            if (const auto bad = quantise_row(in + row * columns, columns, bits, codes.data() + row * words,
                                              scales.data() + row * groups, biases.data() + row * groups))
                refuse(row, *bad);
    }
    return {std::move(codes), std::move(scales), std::move(biases)};
}

Result<float> dequantise(const Rows<std::uint32_t>& codes, const Rows<std::uint16_t>& scales,
                         const Rows<std::uint16_t>& biases) {
    const std::size_t rows = codes.shape(0);
    const std::size_t words = codes.shape(1);
    const std::size_t groups = scales.shape(1);
    if (scales.shape(0) != rows || biases.shape(0) != rows || biases.shape(1) != groups)
        throw std::invalid_argument("codes, scales and biases must have the same rows, scales and biases one shape");
    const std::size_t bits = groups == 0 ? 8 : words * 32 / (groups * kGroupColumns);
    if ((bits != 2 && bits != 4 && bits != 8) || words * 32 != bits * groups * kGroupColumns)
        throw std::invalid_argument("the widths of codes and scales do not make 2-, 4- or 8-bit codes in groups of 64");
    auto values = make_result<float>(rows, groups * kGroupColumns);
    {
        nb::gil_scoped_release release;
        const std::size_t columns = groups * kGroupColumns;
        for (std::size_t row = 0; row < rows; ++row)
            dequantise_row(codes.data() + row * words, scales.data() + row * groups, biases.data() + row * groups,
                           columns, static_cast<int>(bits), values.data() + row * columns);
    }
    return values;
}

}  // namespace

void bind_quantise(nb::module_& m) {
    m.def("quantise", &quantise<BFloat16, std::uint16_t>, nb::arg("values"), nb::arg("bits"));
    m.def("quantise", &quantise<float, float>, nb::arg("values"), nb::arg("bits"));
    m.def("dequantise", &dequantise, nb::arg("codes"), nb::arg("scales"), nb::arg("biases"));
}

}  // namespace flashmoe
