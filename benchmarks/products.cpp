// Billions of operations a second (a multiplication and an addition are two) in products of affine weights with many
// rows of int8 activations, for every instruction set that runs here.
//
//     csrc/tests/run static tiles && build/native/static/tests/flashmoe_products [THREADS...]
//
// Linked statically, so that it also runs on a machine without a compiler: for AMX, carry the program there. Weights
// of one layer's worth of experts walk by (about 100 MB), so they come from memory as they do in a prefill; rows of
// activations and their outputs stay. Wall time, the median of seven walks.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "kernels/dispatch.hpp"
#include "threads/pool.hpp"

using namespace flashmoe;

namespace {

struct Shape {
    const char* name;
    Index out, in;
};
constexpr Shape kShapes[] = {{"expert gate, up", 512, 2048}, {"expert down", 2048, 512}, {"qkv + gate", 10240, 2048}};
constexpr Index kRows[] = {1, 4, 8, 16, 32, 64, 128};
constexpr Index kWeightBytes = 100'000'000, kMaxRows = 128;

// Matrices of one shape side by side, and activations for them.
struct Products {
    Products(const Shape& shape, int bits) : shape(shape), bits(bits) {
        std::mt19937 generator(1);
        const Index groups = shape.in / kGroup, padded = (groups + 15) / 16 * 16;
        const Index stride = shape.in + kGroup;  // as backend/activations.cpp lays rows out
        matrices = std::max<Index>(1, kWeightBytes / (shape.out * shape.in * bits / 8));
        codes.resize(static_cast<std::size_t>(matrices * shape.out * shape.in * bits / 8));
        for (auto& code : codes) code = static_cast<std::uint8_t>(generator());
        floats.resize(static_cast<std::size_t>(matrices * shape.out * groups));
        for (auto& value : floats) value = static_cast<std::uint16_t>(0x3c00 | (generator() & 0x80ff));
        x.resize(static_cast<std::size_t>(kMaxRows * stride));
        for (auto& code : x) code = static_cast<std::int8_t>(generator() % 255 - 127);
        scales.resize(static_cast<std::size_t>(kMaxRows * padded), 0.01f);
        y.resize(static_cast<std::size_t>(kMaxRows * shape.out));
        for (Index r = 0; r < kMaxRows; ++r)
            rows.push_back({x.data() + r * stride, scales.data() + r * padded, scales.data() + r * padded,
                            y.data() + r * shape.out});
    }

    AffineView matrix(Index m) const {
        const std::uint16_t* scale = floats.data() + m * shape.out * (shape.in / kGroup);
        return {codes.data() + m * shape.out * shape.in * bits / 8, scale, scale, shape.out, shape.in, bits};
    }

    Shape shape;
    int bits;
    Index matrices;
    std::vector<std::uint8_t> codes;
    std::vector<std::uint16_t> floats;
    std::vector<std::int8_t> x;
    std::vector<float> scales, y;
    std::vector<QuantisedRow> rows;
};

double seconds_of_walk(const Kernels& kernels, Pool& pool, const Products& p, Index rows, Index matrices) {
    constexpr Index kChunk = 128;
    const Index chunks = p.shape.out / kChunk;
    const auto begin = std::chrono::steady_clock::now();
    pool.run(static_cast<std::uint32_t>(matrices * chunks), [&](std::uint32_t i, int) {
        const Index first = i % chunks * kChunk;
        kernels.affine_rows(p.matrix(i / chunks), first, first + kChunk, p.rows.data(), rows, nullptr);
    });
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void measure(const Kernels& kernels, int threads, const Products& p) {
    Pool pool(threads);
    std::printf("%-8s %7d %4d  %-16s", kernels.name, threads, p.bits, p.shape.name);
    for (const Index rows : kRows) {
        const Index matrices = std::max<Index>(1, p.matrices * 8 / std::max<Index>(8, rows));
        std::vector<double> walks;
        for (int i = 0; i < 7; ++i) walks.push_back(seconds_of_walk(kernels, pool, p, rows, matrices));
        std::nth_element(walks.begin(), walks.begin() + 3, walks.end());
        const double operations = 2.0 * static_cast<double>(rows * matrices * p.shape.out * p.shape.in);
        std::printf(" %7.0f", operations / walks[3] * 1e-9);
        std::fflush(stdout);
    }
    std::printf("\n");
}

}  // namespace

int main(int argc, char** argv) {
    std::vector<int> threads;
    for (int i = 1; i < argc; ++i) threads.push_back(std::max(1, std::atoi(argv[i])));
    if (threads.empty()) threads = {1, 2};
    std::printf("%-8s %7s %4s  %-16s", "", "threads", "bits", "rows:");
    for (const Index rows : kRows) std::printf(" %7ld", static_cast<long>(rows));
    std::printf("\n");
    for (const int bits : {4, 8})
        for (const Shape& shape : kShapes) {
            const Products products(shape, bits);
            for (const int n : threads)
                for (const Kernels* kernels : available_kernels())
                    if (kernels != available_kernels().back()) measure(*kernels, n, products);
        }
}
