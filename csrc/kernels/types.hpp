// What a kernel is given: plain pointers into memory that others own. Shared by all instruction sets.
#pragma once

#include <cstdint>

namespace flashmoe {

using Index = std::int64_t;

constexpr Index kGroup = 64;         // columns that share a scale and a bias (MLX affine), or a scale
constexpr Index kBlockTokens = 64;   // tokens of one block of a key/value cache; part of the order of its sums
constexpr Index kSegmentTokens = 512;  // tokens whose keys are attended to alone, then merged; part of it too
constexpr Index kDeltaColumns = 64;  // columns of a GatedDeltaNet state that one chunk of work owns
constexpr Index kManyRows = 4;         // rows of int8 activations from which on unpacking weights for them pays
constexpr Index kRowsTogether = 64;    // that meet unpacked weights together: what is gathered of them fits beside those
constexpr Index kPanelsRows = 32;      // rows of weights that are best taken together, or a multiple of those that are
constexpr Index kTile = 4;           // rows of float activations, or heads, that share what is read for them

// W[out, in] = code * scale + bias; rows of codes follow each other, `in` is a multiple of 64, bits is 2, 4 or 8.
struct AffineView {
    const std::uint8_t* codes = nullptr;
    const std::uint16_t* scales = nullptr;  // bfloat16 [out, in / 64]
    const std::uint16_t* biases = nullptr;
    Index out = 0, in = 0;
    int bits = 4;

    // Inlined always: an out-of-line copy compiled for AVX-512 could be linked into the baseline.
    [[gnu::always_inline]] Index groups() const { return in / kGroup; }
    [[gnu::always_inline]] Index row_bytes() const { return in * bits / 8; }
};

// W[out, in] as bfloat16 bits or as float32.
struct DenseView {
    const void* values = nullptr;
    Index out = 0, in = 0;
    bool bf16 = false;
};

// One row of activations as int8, split into the order in which a `bits`-bit vector of weights meets it, and zero up
// to a whole number of vectors; scales and sums (scale * sum of the group's codes) are zero up to a multiple of 16
// groups: a NaN that happened to lie there would spoil the row.
struct QuantisedRow {
    const std::int8_t* codes;
    const float* scales;
    const float* sums;
    float* out;  // element n receives the product with row n of the matrix
};

struct FloatRow {
    const float* x;
    float* out;
};

// Where a key/value head's parts lie, bytes from its begin. A code is a float16, or an int8 that its scale multiplies:
// float, one for kGroup dimensions of a key or a value of a token. There are scales if there are int8.
struct KvLayout {
    Index keys;          // codes [head_dim, kBlockTokens]
    Index key_scales;    // [groups, kBlockTokens]
    Index values;        // codes [kBlockTokens, padded_dim]
    Index value_scales;  // [groups, kBlockTokens]
    Index bytes;         // of a head
};

// Keys and values of one key/value head: block b holds tokens b * kBlockTokens and up, on a cache line's boundary.
struct KvHead {
    const std::uint8_t* const* blocks;
    KvLayout at;  // bytes from a block's begin
    int bits;     // of a code: 16 or 8

    template <class Part>
    [[gnu::always_inline]] const Part* part(Index block, Index offset) const {
        return reinterpret_cast<const Part*>(blocks[block] + offset);
    }
};

// Queries of consecutive tokens and of the heads that read one key/value head.
struct AttentionWork {
    const float* q;  // of the first token and head
    Index token_stride, head_stride;
    Index tokens, heads;
    KvHead kv;
    Index length;                // keys that the first token sees; each token after it sees one more
    Index head_dim, padded_dim;  // padded to 16
    float scale;
    float* queries;              // scratch, [tokens * heads, head_dim]
};

// Floats of what a row of queries has gathered: a weighted sum of values, and 16 for what goes with it.
[[gnu::always_inline]] inline Index attention_row_floats(Index padded_dim) { return padded_dim + 16; }

// Up to kDeltaColumns columns of one value head over all tokens of a chunk.
struct DeltaWork {
    const float *q, *k, *along;  // of the first token: unit vectors [key_dim], q scaled, and q . k
    Index token_stride;          // of q, k and along
    const float* v;              // of the first token, at the first of these columns
    Index v_stride;
    const float *decay, *beta;   // of the first token
    Index gate_stride;
    float* state;                // [key_dim, columns rounded up to 16]; on a cache line's boundary to be fast
    float* out;                  // of the first token, at the first of these columns
    Index out_stride;
    Index tokens, key_dim, columns;
};

// A depthwise causal convolution of some channels; row t of x is x + t * x_stride.
struct ConvWork {
    const float* x;
    Index x_stride;
    const float* weight;  // [channels, kernel]
    float* state;         // [kernel - 1, .], oldest first
    Index state_stride;
    float* out;
    Index out_stride;
    Index tokens, channels, kernel;
    float* taps;  // scratch, [kernel, channels]
};

}  // namespace flashmoe
