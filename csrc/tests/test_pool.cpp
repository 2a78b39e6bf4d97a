// The pool of compute threads: every chunk once, whoever runs it.
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "tests/check.hpp"
#include "threads/pool.hpp"

using flashmoe::Pool;
using namespace std::chrono_literals;

namespace {

// One region; says whether each chunk ran once and by a worker that there is.
bool runs_once(Pool& pool, std::uint32_t chunks) {
    std::vector<int> ran(chunks, 0);  // plain ints: the region's end must make them visible
    std::atomic<bool> wrong = false;
    pool.run(chunks, [&](std::uint32_t chunk, int worker) {
        ++ran[chunk];
        if (worker < 0 || worker >= pool.threads()) wrong = true;
    });
    for (const int times : ran) wrong = wrong || times != 1;
    return !wrong;
}

}  // namespace

TEST(pool_runs_every_chunk_once) {
    for (const int threads : {1, 2, 3, 8})
        for (const std::uint32_t runs : {0, 50, 100}) {
            Pool pool(threads, {30us, runs});
            CHECK_EQUAL(pool.threads(), threads);
            for (std::uint32_t chunks = 0; chunks < 60; ++chunks) CHECK(runs_once(pool, chunks));
            CHECK(runs_once(pool, 5000));
        }
}

// Regions that are over before most workers have noticed them, so that late ones meet the next; by threads that spin
// (no more than processors), by threads that always sleep (more of them), and by some that are just falling asleep.
TEST(pool_survives_late_workers) {
    const auto processors = static_cast<int>(std::thread::hardware_concurrency());
    for (const int threads : {2, processors, 2 * processors, 16})
        for (const auto spin : {0us, 2us, 200us}) {
            Pool pool(threads, {spin, 50});
            for (std::uint32_t round = 0; round < 2000; ++round) CHECK(runs_once(pool, 2 + round % 5));
        }
}

TEST(pool_wakes_workers_that_fell_asleep) {
    for (const int threads : {2, 8}) {
        Pool pool(threads, {0us, 50});
        for (std::uint32_t round = 0; round < 20; ++round) {
            std::this_thread::sleep_for(1ms);
            CHECK(runs_once(pool, 2 + round));
        }
    }
}

// Two chunks that wait for each other: each needs a thread of its own.
TEST(pool_lets_threads_work_together) {
    for (const auto spin : {0us, 200us}) {
        Pool pool(2, {spin, 50});
        for (int round = 0; round < 100; ++round) {
            std::atomic<int> there = 0;
            pool.run(2, [&](std::uint32_t, int) {
                ++there;
                while (there < 2) std::this_thread::yield();
            });
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
            for (int round = 0; round < 200; ++round) wrong += !runs_once(pool, 9);
        });
    for (auto& caller : callers) caller.join();
    CHECK_EQUAL(wrong.load(), 0);
}
