// The products by tiles, with a model of the tile unit in place of the hardware, compute what the portable kernels do.
#include "simd/portable.hpp"
#include "simd/math.hpp"
// The lanes come first: the kernels are written against them.
#include "kernels/few_rows.hpp"
#include "kernels/many_by_tiles.hpp"

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/dispatch.hpp"
#include "tests/check.hpp"

using namespace flashmoe;

namespace {

// TDPBSUD as Intel's manual defines it: row m of the left tile meets column n of the right one four bytes at a time.
class ModelTiles {
public:
    template <int W>
    void weights(const void* codes) {
        std::memcpy(right_[W], codes, sizeof right_[W]);
    }

    template <int X>
    void activations(const void* codes) {
        std::memcpy(left_[X], codes, sizeof left_[X]);
    }

    template <int X, int W>
    void multiply() {
        for (int m = 0; m < 16; ++m)
            for (int n = 0; n < 16; ++n) {
                std::int32_t& dot = dots_[X][W][m][n] = 0;
                for (int k = 0; k < 16; ++k)
                    for (int i = 0; i < 4; ++i) dot += left_[X][m][4 * k + i] * right_[W][k][4 * n + i];
            }
    }

    template <int X, int W>
    void store(std::int32_t* dots) const {
        std::memcpy(dots, dots_[X][W], sizeof dots_[X][W]);
    }

private:
    std::int8_t left_[2][16][64];
    std::uint8_t right_[2][16][64];
    std::int32_t dots_[2][2][16][16];
};

std::mt19937 generator(11);

template <class T>
std::vector<T> random_values(Index n, std::uint32_t mask, std::uint32_t base) {
    std::vector<T> values(static_cast<std::size_t>(n));
    for (T& value : values) value = static_cast<T>((generator() & mask) | base);
    return values;
}

template <int Bits>
void multiply_by_tiles(Index in, Index out, Index count) {
    const Index groups = in / kGroup, padded_groups = (groups + 15) / 16 * 16, padded = (in + 255) / 256 * 256;
    const auto codes = random_values<std::uint8_t>(out * in * Bits / 8, 255, 0);
    const auto scales = random_values<std::uint16_t>(out * groups, 0x80ff, 0x3c00);
    const auto biases = random_values<std::uint16_t>(out * groups, 0x80ff, 0x3c00);
    const AffineView w{codes.data(), scales.data(), biases.data(), out, in, Bits};
    auto x = random_values<std::int8_t>(count * padded, 255, 0);
    std::vector<float> factors(static_cast<std::size_t>(count * padded_groups)), expected, y;
    for (float& factor : factors) factor = static_cast<float>(generator() % 1000) * 1e-3f;
    expected.resize(static_cast<std::size_t>(count * out));
    y.resize(expected.size());
    std::vector<QuantisedRow> rows;
    const auto point_to = [&](std::vector<float>& to) {
        rows.clear();
        for (Index t = 0; t < count; ++t) {
            const float* factor = factors.data() + t * padded_groups;
            rows.push_back({x.data() + t * padded, factor, factor, to.data() + t * out});
        }
    };
    point_to(expected);
    portable::few_rows<Bits>(w, 0, out, rows.data(), count);
    point_to(y);
    const Index done = portable::ManyByTiles<ModelTiles>::rows<Bits>(w, 0, out, rows.data(), count, nullptr);
    CHECK_EQUAL(done, out / portable::kUnpackedRows * portable::kUnpackedRows);
    for (Index t = 0; t < count; ++t)
        CHECK(std::memcmp(&y[static_cast<std::size_t>(t * out)], &expected[static_cast<std::size_t>(t * out)],
                          static_cast<std::size_t>(done) * 4) == 0);
}

}  // namespace

TEST(tiles_compute_the_same_bits_as_lanes) {
    for (const Index in : {64, 192, 512, 1088})
        for (const Index count : {1, 8, 15, 16, 17, 63, 70}) {
            multiply_by_tiles<2>(in, 37, count);
            multiply_by_tiles<4>(in, 37, count);
            multiply_by_tiles<8>(in, 37, count);
        }
}

TEST(tiles_of_this_processor_are_tested_where_it_has_them) {
    const auto tables = available_kernels();
    const bool here = std::any_of(tables.begin(), tables.end(),
                                  [](const Kernels* table) { return std::string(table->name) == "amx"; });
    if (!here) check::skip("no AMX on this processor: its kernels were not run, only their model");
}
