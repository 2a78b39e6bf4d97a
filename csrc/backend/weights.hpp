// A matrix of the trunk, and rows that it multiplies.
#pragma once

#include "kernels/types.hpp"

namespace flashmoe {

// Rows [rows, columns] of any row stride.
struct Rows {
    const float* data;
    Index rows, columns, stride;

    const float* row(Index r) const { return data + r * stride; }
};

// The residual stream [rows, columns], contiguous.
struct Residual {
    float* data;
    Index rows, columns;
};

// A matrix of the trunk: affine, with activations rounded to int8 unless exact, or dense.
struct Weight {
    AffineView affine;
    DenseView dense;
    bool is_dense = false, exact = false;

    bool int8() const { return !is_dense && !exact; }
    Index out() const { return is_dense ? dense.out : affine.out; }
    Index in() const { return is_dense ? dense.in : affine.in; }
    Index row_bytes() const;
};

}  // namespace flashmoe
