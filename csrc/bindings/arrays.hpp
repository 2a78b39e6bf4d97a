// NumPy arrays as arguments: checked views through the buffer protocol (0.1 us each), never copies.
//
// A mismatch is a std::invalid_argument, which Python sees as ValueError, with a sentence that names the argument.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "backend/cpu.hpp"

namespace flashmoe::bindings {

namespace nb = nanobind;

template <class T>
struct Element;
template <>
struct Element<float> {
    static constexpr const char* codes = "f";
    static constexpr const char* name = "float32";
};
template <>
struct Element<std::uint8_t> {
    static constexpr const char* codes = "B";
    static constexpr const char* name = "uint8";
};
template <>
struct Element<std::uint16_t> {
    static constexpr const char* codes = "H";
    static constexpr const char* name = "uint16";
};
template <>
struct Element<std::uint32_t> {
    static constexpr const char* codes = "IL";
    static constexpr const char* name = "uint32";
};
template <>
struct Element<std::int32_t> {
    static constexpr const char* codes = "il";
    static constexpr const char* name = "int32";
};

[[noreturn]] inline void refuse(const std::string& sentence) { throw std::invalid_argument(sentence); }

inline void require(bool holds, const char* sentence) {
    if (!holds) refuse(sentence);
}

enum class Access { read, write };

// Holds the array's buffer, and so the array, until it is destroyed (with the GIL held).
template <class T>
class Array {
public:
    Array(nb::handle array, const char* name, int dims, Access access = Access::read) : name_(name) {
        const int flags = PyBUF_STRIDED | PyBUF_FORMAT | (access == Access::write ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(array.ptr(), &buffer_, flags) != 0) {
            PyErr_Clear();
            refuse(name_ + " must be a " + (access == Access::write ? "writable " : "") + Element<T>::name + " array");
        }
        try {
            check(dims);
        } catch (...) {
            PyBuffer_Release(&buffer_);
            throw;
        }
    }
    ~Array() { PyBuffer_Release(&buffer_); }
    Array(const Array&) = delete;
    Array& operator=(const Array&) = delete;

    T* data() const { return static_cast<T*>(buffer_.buf); }
    int dims() const { return buffer_.ndim; }
    Index shape(int axis) const { return buffer_.shape[axis]; }
    Index stride(int axis) const { return buffer_.strides[axis] / static_cast<Index>(sizeof(T)); }
    Index size() const { return buffer_.len / static_cast<Index>(sizeof(T)); }

    void expect(std::initializer_list<Index> shape) const {
        bool same = static_cast<int>(shape.size()) == dims();
        int axis = 0;
        for (const Index n : shape) same = same && (n == this->shape(axis++));
        if (!same) refuse(name_ + " has shape " + text(shape_begin(), dims()) + ", expected " +
                          text(shape.begin(), static_cast<int>(shape.size())));
    }
    void expect_contiguous() const {
        if (!PyBuffer_IsContiguous(&buffer_, 'C')) refuse(name_ + " must be contiguous");
    }
    // A contiguous array of this shape: for outputs and weights.
    T* exactly(std::initializer_list<Index> shape) const {
        expect(shape);
        expect_contiguous();
        return data();
    }

private:
    const Py_ssize_t* shape_begin() const { return buffer_.shape; }

    template <class N>
    static std::string text(const N* shape, int dims) {
        std::string s = "[";
        for (int i = 0; i < dims; ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
        return s + "]";
    }

    void check(int dims) const {
        const char* format = buffer_.format ? buffer_.format : "B";
        if (*format == '=' || *format == '<' || *format == '@') ++format;
        const bool known = std::string(Element<T>::codes).find(*format) != std::string::npos && format[1] == '\0';
        if (!known || buffer_.itemsize != static_cast<Py_ssize_t>(sizeof(T)))
            refuse(name_ + " must be " + Element<T>::name + ", got an array of format '" + format + "'");
        if (buffer_.ndim != dims)
            refuse(name_ + " must have " + std::to_string(dims) + " dimensions, got " + std::to_string(buffer_.ndim));
        const auto item = static_cast<Py_ssize_t>(sizeof(T));
        if (reinterpret_cast<std::uintptr_t>(buffer_.buf) % sizeof(T)) refuse(name_ + " is not aligned to its elements");
        for (int axis = 0; axis < dims; ++axis)
            if (buffer_.strides[axis] % item) refuse(name_ + " has a stride that is not a whole number of elements");
        if (dims > 0 && buffer_.shape[dims - 1] > 1 && buffer_.strides[dims - 1] != item)
            refuse(name_ + " must be contiguous along its last axis");
    }

    Py_buffer buffer_{};
    std::string name_;
};

using Floats = Array<float>;

inline Rows rows(const Floats& x) { return {x.data(), x.shape(0), x.shape(1), x.stride(0)}; }
inline Heads heads(const Floats& x) {
    return {x.data(), x.shape(0), x.shape(1), x.shape(2), x.stride(0), x.stride(1)};
}

}  // namespace flashmoe::bindings
