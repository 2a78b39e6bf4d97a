// Scratch memory that grows and is kept.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

#include "kernels/types.hpp"

namespace flashmoe {

constexpr Index round_up(Index n, Index unit) { return (n + unit - 1) / unit * unit; }
constexpr Index ceil_div(Index n, Index unit) { return (n + unit - 1) / unit; }

// An array of plain values on a cache line's boundary. Growing loses what was in it.
template <class T>
class AlignedArray {
public:
    T* reserve(Index n) {
        if (n > size_) {
            data_.reset();
            size_ = 0;
            const auto bytes = static_cast<std::size_t>(round_up(n * static_cast<Index>(sizeof(T)), 64));
            data_.reset(static_cast<T*>(::operator new(bytes, std::align_val_t{64})));
            size_ = n;
        }
        return data_.get();
    }
    T* data() { return data_.get(); }
    const T* data() const { return data_.get(); }

private:
    struct Free {
        void operator()(T* p) const { ::operator delete(p, std::align_val_t{64}); }
    };
    std::unique_ptr<T, Free> data_;
    Index size_ = 0;
};

}  // namespace flashmoe
