// Rows of activations as int8, in the orders in which weights of 2, 4 and 8 bits meet them.
//
// Quantised once for all matrices that read them. Rows are independent: any thread may fill any row, a group at a time.
#pragma once

#include "backend/memory.hpp"
#include "kernels/table.hpp"

namespace flashmoe {

// A set of code widths, so that only the orders in use are made.
class Widths {
public:
    void add(int bits) { mask_ |= bits; }
    bool has(int bits) const { return (mask_ & bits) != 0; }

private:
    int mask_ = 0;
};

class Activations {
public:
    // Room for `rows` rows of `columns` (a multiple of 64); their padding is made zero, the rest is left undefined.
    void prepare(Index rows, Index columns, Widths widths);

    // Groups first, first + 1, ... of a row, from x on.
    void quantise(const Kernels& kernels, Index row, Index first, Index groups, const float* x);
    void quantise_row(const Kernels& kernels, Index row, const float* x) {
        quantise(kernels, row, 0, columns_ / kGroup, x);
    }

    QuantisedRow row(Index row, int bits, float* out) const;

    // The same for products of all rows together, once they are filled: room for them, and rows [first, last).
    void prepare_gathered(const Kernels& kernels, Index rows);
    void gather(const Kernels& kernels, Index first, Index last);
    // As Kernels::affine_rows takes them, from a row on that begins a run; null if there are none.
    const std::uint8_t* gathered(const Kernels& kernels, int bits, Index from = 0) const;

private:
    std::int8_t* codes(int bits, Index row) { return codes_[bits / 4].data() + row * padded_; }

    Index columns_ = 0, padded_ = 0, padded_groups_ = 0, gathered_rows_ = 0;
    Widths widths_;
    AlignedArray<std::int8_t> codes_[3];  // for 2, 4, 8 bits
    AlignedArray<float> scales_, sums_;
    AlignedArray<std::uint8_t> gathered_[3];
};

}  // namespace flashmoe
