// What a parallel region costs, and what the operations of one decoded token get of the memory, by threads.
//
//     csrc/tests/run static pool && build/native/static/tests/flashmoe_regions [THREADS...]
//
// Linked statically, so that it can be carried to a machine with many processors. Between two regions the caller is
// busy by itself for some time, as Python is. Weights and states walk by, more than caches hold. Medians, and the
// ninth of ten beside them where it says so: a region that waits for a thread that sleeps or was preempted shows there.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu.hpp"
#include "io/buffer.hpp"

using namespace flashmoe;
using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

namespace {

constexpr std::size_t kMemory = std::size_t{1} << 30;
constexpr microseconds kPython{10};  // between two calls of a decoded layer

struct Times {
    double median, ninth;
};

void busy(microseconds time) {
    for (const auto end = Clock::now() + time; Clock::now() < end;) {
    }
}

// Microseconds of `region`, `gap` after the one before.
Times times(int regions, microseconds gap, const std::function<void(int)>& region) {
    std::vector<double> all;
    for (int i = 0; i < regions; ++i) {
        busy(gap);
        const auto begin = Clock::now();
        region(i);
        all.push_back(std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
    }
    std::sort(all.begin(), all.end());
    return {all[all.size() / 2], all[all.size() * 9 / 10]};
}

void empty_regions(int threads) {
    for (const int spin : {30, 100, 300}) {
        Pool pool(threads, {microseconds(spin), 50});
        std::printf("%7d  spin %3d us ", threads, spin);
        for (const int gap : {0, 10, 20, 50, 150}) {
            const Times t = times(1000, microseconds(gap), [&](int) {
                pool.run(static_cast<std::uint32_t>(threads), [](std::uint32_t, int) {});
            });
            std::printf(" | %6.1f %6.1f", t.median, t.ninth);
        }
        std::printf("\n");
    }
}

void reading_regions(int threads, const Kernels& kernels, const std::uint8_t* memory) {
    for (const std::uint32_t runs : {0, 50, 75})
        for (const Index a_thread : {8, 16}) {
            Pool pool(threads, {Pool::Tuning().spin, runs});
            std::printf("%7d  %2d %% in runs, %2d chunks a thread ", threads, static_cast<int>(runs),
                        static_cast<int>(a_thread));
            for (const double mb : {0.6, 1.8, 4.7, 12.0, 300.0}) {
                const auto bytes = static_cast<Index>(mb * 1e6);
                const Index chunk = std::clamp(bytes / (threads * a_thread), Index{16384}, Index{131072}) / 256 * 256;
                const auto chunks = static_cast<std::uint32_t>(bytes / chunk);
                const auto places = static_cast<Index>(kMemory) / bytes;
                const Times t = times(mb > 100 ? 9 : 200, kPython, [&](int i) {
                    const std::uint8_t* from = memory + i % places * bytes;
                    pool.run(chunks, [&](std::uint32_t c, int) { kernels.read_all(from + c * chunk, chunk); });
                });
                std::printf(" %6.1f", static_cast<double>(chunks) * static_cast<double>(chunk) / t.median * 1e-3);
            }
            std::printf("\n");
        }
}

// Affine matrices one behind the other in the memory; after its end, from the beginning.
class Weights {
public:
    explicit Weights(const std::uint8_t* memory) : memory_(memory) {}

    AffineView next(Index out, Index in) {
        const Index codes = out * in / 2, groups = out * (in / kGroup), bytes = codes + 4 * groups;
        if (at_ + bytes > static_cast<Index>(kMemory)) at_ = 0;
        const std::uint8_t* begin = memory_ + at_;
        const auto* scales = reinterpret_cast<const std::uint16_t*>(begin + codes);
        at_ += round_up(bytes, 64);
        return {begin, scales, scales + groups, out, in, 4};
    }

private:
    const std::uint8_t* memory_;
    Index at_ = 0;
};

struct Operations {
    Operations(int threads, const Kernels& kernels, const std::uint8_t* memory)
        : cpu(threads, kernels), threads(threads), weights(memory) {
        std::mt19937 generator(1);
        std::normal_distribution<float> normal;
        for (float& value : x) value = normal(generator);
    }

    void report(const char* name, int calls, double bytes_a_call, const std::function<void(int)>& call) {
        const Times t = times(calls, kPython, call);
        std::printf("%7d  %-28s %7.1f us (ninth of ten %7.1f) %6.1f GB/s\n", threads, name, t.median, t.ninth,
                    bytes_a_call / t.median * 1e-3);
    }

    void linears(const char* name, Index out, Index in) {
        report(name, 200, static_cast<double>(out * in) * 0.5625, [&](int) {
            Weight matrix;
            matrix.affine = weights.next(out, in);
            const Weight* const matrices[] = {&matrix};
            float* const outs[] = {y.data()};
            cpu.linears({x.data(), 1, in, in}, matrices, outs);
        });
    }

    void mlps(const char* name, Index hidden, Index inner, Index count) {
        report(name, 200, static_cast<double>(3 * hidden * inner * count) * 0.5625, [&](int) {
            std::vector<MlpWork> work;
            std::vector<float*> outs;
            for (Index e = 0; e < count; ++e) {
                work.push_back({{weights.next(inner, hidden), weights.next(inner, hidden), weights.next(hidden, inner)},
                                e, e + 1});
                outs.push_back(y.data() + e * hidden);
            }
            const std::vector<std::int32_t> rows(static_cast<std::size_t>(count), 0);
            cpu.mlps({x.data(), 1, hidden, hidden}, work, rows.data(), outs);
        });
    }

    void delta(const char* name, Index key_heads, Index heads, Index dim) {
        std::vector<DeltaState> states;
        states.reserve(30);
        for (int i = 0; i < 30; ++i) states.emplace_back(1, 1, heads, dim, dim);
        const Index width = (2 * key_heads + heads) * dim;
        const auto call = [&](int i) {
            cpu.gated_delta_rule({x.data(), 1, width, width}, {x.data(), 1, heads, heads}, {x.data(), 1, heads, heads},
                                 x.data(), x.data(), key_heads, states[static_cast<std::size_t>(i) % 30], y.data());
        };
        for (int i = 0; i < 30; ++i) call(i);  // the system hands out memory when it is first touched
        report(name, 300, 8.0 * static_cast<double>(heads * dim * dim), call);
    }

    Cpu cpu;
    int threads;
    Weights weights;
    std::vector<float> x = std::vector<float>(1 << 16), y = std::vector<float>(1 << 19);
};

void operations(int threads, const Kernels& kernels, const std::uint8_t* memory) {
    Operations o(threads, kernels, memory);
    o.linears("35B qkv + gate", 10240, 2048);
    o.linears("35B out_proj", 2048, 4096);
    o.linears("head", 248320, 2048);
    o.mlps("35B shared expert", 2048, 512, 1);
    o.mlps("35B 8 experts", 2048, 512, 8);
    o.delta("35B delta rule, read + write", 16, 32, 128);
}

}  // namespace

int main(int argc, char** argv) {
    std::vector<int> threads;
    for (int i = 1; i < argc; ++i) threads.push_back(std::max(1, std::atoi(argv[i])));
    if (threads.empty()) threads = {1, 2};
    const std::string best;
    const Kernels& kernels = find_kernels(best);
    const Buffer buffer(kMemory, true);
    auto* memory = reinterpret_cast<std::uint8_t*>(buffer.data());
    std::mt19937 generator(0);  // any pair of bytes an ordinary number as bfloat16: denormal ones are slow
    auto* numbers = reinterpret_cast<std::uint16_t*>(memory);
    for (std::size_t i = 0; i < kMemory / 2; ++i)
        numbers[i] = i < 1 << 20 ? static_cast<std::uint16_t>(0x3c00 | (generator() & 0x80ff)) : numbers[i - (1 << 20)];

    std::printf("%s\n\nthreads  empty region, us (median, ninth of ten), 0 | 10 | 20 | 50 | 150 us after the last\n",
                kernels.name);
    for (const int n : threads) empty_regions(n);
    std::printf("\nthreads  reading regions of 0.6, 1.8, 4.7, 12 and 300 MB, GB/s\n");
    for (const int n : threads) reading_regions(n, kernels, memory);
    std::printf("\nthreads  operations of one token, weights and states from memory\n");
    for (const int n : threads) operations(n, kernels, memory);
}
