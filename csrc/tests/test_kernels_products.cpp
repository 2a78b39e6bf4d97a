// Products with quantised and dense weights.
#include "backend/memory.hpp"
#include "tests/kernel_cases.hpp"

using namespace kernel_cases;

namespace {

struct Affine {
    Affine(Index out, Index in, int bits)
        : codes(bytes(out * in * bits / 8)), scales(bfloats(out * in / kGroup, 0.02f)),
          biases(bfloats(out * in / kGroup, 0.1f)), view{codes.data(), scales.data(), biases.data(), out, in, bits} {}

    std::vector<std::uint8_t> codes;
    std::vector<std::uint16_t> scales, biases;
    AffineView view;
};

struct Activations {
    Activations(Index in, int bits) {
        const Index groups = in / kGroup;
        const Index vector_groups = 8 / bits;
        const Index padded = (groups + vector_groups - 1) / vector_groups * vector_groups * kGroup;
        codes.resize(size(padded));
        for (Index i = 0; i < in; ++i) codes[size(i)] = static_cast<std::int8_t>(generator() % 255 - 127);
        scales = floats(groups, 0.01f);
        sums = floats(groups, 0.5f);
        scales.resize(size((groups + 15) / 16 * 16));
        sums.resize(scales.size());
    }

    std::vector<std::int8_t> codes;
    std::vector<float> scales, sums;
};

// For kernels that multiply float rows with a matrix of five rows.
template <typename View>
void same_products(const std::string& what, Index in,
                   void (*Kernels::*kernel)(const View&, Index, Index, const FloatRow*, Index), const View& view) {
    for (const Index count : {1, 4, 6}) {
        const auto x = floats(count * in);
        same_bits(what + ", in " + std::to_string(in), [&](const Kernels& table) {
            std::vector<float> y(size(count * view.out));
            std::vector<FloatRow> rows;
            for (Index t = 0; t < count; ++t) rows.push_back({&x[size(t * in)], &y[size(t * view.out)]});
            (table.*kernel)(view, 0, view.out, rows.data(), count);
            return y;
        });
    }
}

}  // namespace

TEST(kernels_multiply_affine_weights_alike) {
    for (const int bits : {2, 4, 8})
        for (const Index in : {64, 128, 192, 256, 512, 576, 768, 1024, 1472, 2048})
            for (const Index count : {1, 2, 3, 4, 5, 6, 7, 9, 16, 67, 130}) {
                const Index out = 37;
                const Affine w(out, in, bits);
                std::vector<Activations> rows;
                for (Index t = 0; t < count; ++t) rows.emplace_back(in, bits);
                same_bits("affine_rows, " + std::to_string(bits) + " bits, in " + std::to_string(in),
                          [&](const Kernels& table) {
                              std::vector<float> y(size(2 * count * out));  // gathered by each call, then once
                              const auto views = [&](Index begin) {
                                  std::vector<QuantisedRow> views;
                                  for (Index t = 0; t < count; ++t) {
                                      const Activations& row = rows[size(t)];
                                      float* to = &y[size((begin + t) * out)];
                                      views.push_back({row.codes.data(), row.scales.data(), row.sums.data(), to});
                                  }
                                  return views;
                              };
                              const auto each = views(0), once = views(count);
                              table.affine_rows(w.view, 0, 2, each.data(), count, nullptr);
                              table.affine_rows(w.view, 2, out, each.data(), count, nullptr);
                              AlignedArray<std::uint8_t> gathered;
                              gathered.reserve(table.gathered_bytes(in, count));
                              for (Index t = 0; t < count; ++t)
                                  table.gather_row(once[size(t)], in, bits, t, count, gathered.data());
                              table.affine_rows(w.view, 0, out, once.data(), count, gathered.data());
                              return y;
                          });
            }
}

TEST(kernels_multiply_with_exact_activations_alike) {
    for (const int bits : {2, 4, 8})
        for (const Index in : {64, 192, 1024}) {
            const Affine w(5, in, bits);
            same_products("exact_affine_rows", in, &Kernels::exact_affine_rows, w.view);
            same_bits("embed_affine", [&](const Kernels& table) {
                std::vector<float> out(size(in));
                table.embed_affine(w.view, 3, out.data());
                return out;
            });
        }
}

TEST(kernels_multiply_dense_weights_alike) {
    for (const Index in : {5, 16, 48, 100, 1024})
        for (const bool bf16 : {false, true}) {
            const auto wide = floats(5 * in);
            const auto narrow = bfloats(5 * in, 1.0f);
            const DenseView view{bf16 ? static_cast<const void*>(narrow.data()) : wide.data(), 5, in, bf16};
            same_products("dense_rows", in, &Kernels::dense_rows, view);
            same_bits("embed_dense", [&](const Kernels& table) {
                std::vector<float> out(size(in));
                table.embed_dense(view, 4, out.data());
                return out;
            });
        }
}
