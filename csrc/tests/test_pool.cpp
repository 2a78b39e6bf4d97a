// The pool of compute threads: every chunk once, whoever runs it.
#include <atomic>
#include <thread>
#include <vector>

#include "tests/check.hpp"
#include "threads/pool.hpp"

using flashmoe::Pool;

TEST(pool_runs_every_chunk_once) {
    for (const int threads : {1, 2, 3, 8}) {
        Pool pool(threads);
        CHECK_EQUAL(pool.threads(), threads);
        for (std::uint32_t chunks = 0; chunks < 60; ++chunks) {
            std::vector<int> ran(chunks, 0);  // plain ints: the region's end must make them visible
            std::atomic<bool> stranger = false;
            pool.run(chunks, [&](std::uint32_t chunk, int worker) {
                ++ran[chunk];
                if (worker < 0 || worker >= threads) stranger = true;
            });
            for (const int times : ran) CHECK_EQUAL(times, 1);
            CHECK(!stranger);
        }
    }
}

TEST(pool_gives_each_worker_its_own_scratch) {
    Pool pool(4);
    std::vector<std::uint64_t> scratch(4, 0);
    for (int round = 0; round < 300; ++round)
        pool.run(16, [&](std::uint32_t chunk, int worker) { scratch[static_cast<std::size_t>(worker)] += chunk; });
    std::uint64_t sum = 0;
    for (const auto part : scratch) sum += part;
    CHECK_EQUAL(sum, 300u * 120u);
}

TEST(pool_serves_callers_from_several_threads) {
    Pool pool(2);
    std::atomic<int> wrong = 0;
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 3; ++caller)
        callers.emplace_back([&] {
            for (int round = 0; round < 200; ++round) {
                std::vector<int> ran(9, 0);
                pool.run(9, [&](std::uint32_t chunk, int) { ++ran[chunk]; });
                for (const int times : ran) wrong += times != 1;
            }
        });
    for (auto& caller : callers) caller.join();
    CHECK_EQUAL(wrong.load(), 0);
}
