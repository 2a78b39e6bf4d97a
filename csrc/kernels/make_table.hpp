// Collects the kernels compiled for one instruction set. Include last; isa_*.cpp do, each with flags of its own.
#pragma once

#include "kernels/affine.hpp"
#include "kernels/attention.hpp"
#include "kernels/delta.hpp"
#include "kernels/exact.hpp"
#include "kernels/quantise.hpp"
#include "kernels/rows.hpp"
#include "kernels/table.hpp"

namespace flashmoe::FLASHMOE_ISA {

template <class Many = ManyByLanes>
constexpr Kernels make_table(const char* name) {
    return {
        .name = name,
        .quantise_row = quantise_row,
        .split_codes = split_codes,
        .affine_rows = affine_rows<Many>,
        .gathered_bytes = gathered_bytes,
        .gather_row = gather_row,
        .exact_affine_rows = exact_affine_rows,
        .dense_rows = dense_rows,
        .embed_affine = embed_affine,
        .embed_dense = embed_dense,
        .rms_norm = rms_norm,
        .norm_rope = norm_rope,
        .gated_rms_norm = gated_rms_norm,
        .sigmoid_gate = sigmoid_gate,
        .silu_mul = silu_mul,
        .softmax = softmax,
        .combine = combine,
        .to_f16 = to_f16,
        .from_f16 = from_f16,
        .attend = attend,
        .merge_attention = merge_attention,
        .finish_attention = finish_attention,
        .conv = conv,
        .normalise_delta = normalise_delta,
        .delta = delta,
        .read_all = read_all,
    };
}

}  // namespace flashmoe::FLASHMOE_ISA
