// Forks of a key/value cache: what one thread reads, another may go on from.
#include <algorithm>
#include <atomic>
#include <thread>

#include "backend/kv_cache.hpp"
#include "tests/kernel_cases.hpp"

using namespace kernel_cases;

namespace {

constexpr Index kHeads = 2, kDim = 70;

std::vector<std::uint8_t> contents(const KvCache& cache) {
    std::vector<std::uint8_t> rows(size(cache.length() * cache.row_bytes()));
    cache.read(0, cache.length(), rows.data());
    return rows;
}

bool begins_with(const std::vector<std::uint8_t>& all, const std::vector<std::uint8_t>& part) {
    return part.size() <= all.size() && std::equal(part.begin(), part.end(), all.begin());
}

}  // namespace

TEST(kv_cache_forks_do_not_notice_each_other) {
    for (const int bits : {16, 8})
        for (const Index length : {1, 63, 64, 65, 130})
            for (const Index cut : {length, length / 2, Index{0}}) {
                KvCache cache(kHeads, kDim, bits);
                const Index row = cache.row_bytes();
                const auto rows = bytes(300 * row);
                cache.append_rows(length, rows.data());
                KvCache fork = cache.fork(cut);
                fork.append_rows(70, rows.data() + 200 * row);
                cache.append_rows(70, rows.data() + length * row);
                CHECK(begins_with(rows, contents(cache)));
                auto expected = std::vector(rows.begin(), rows.begin() + cut * row);
                expected.insert(expected.end(), rows.begin() + 200 * row, rows.begin() + 270 * row);
                CHECK(contents(fork) == expected);
            }
}

TEST(kv_cache_forks_can_be_read_and_dropped_while_their_source_grows) {
    KvCache cache(kHeads, kDim, 8);
    const Index row = cache.row_bytes();
    const auto rows = bytes(300 * row);
    cache.append_rows(10, rows.data());
    std::vector<std::thread> readers;
    std::atomic<int> wrong = 0;
    for (Index length = 11; length <= 200; ++length) {
        if (length % 20 == 0)
            readers.emplace_back([&rows, &wrong, fork = cache.fork(cache.length() - 3)] {
                wrong += !begins_with(rows, contents(fork));
            });
        cache.append_rows(1, rows.data() + (length - 1) * row);
    }
    for (auto& reader : readers) reader.join();
    CHECK_EQUAL(wrong.load(), 0);
    CHECK(begins_with(rows, contents(cache)));
}

TEST(kv_caches_hold_the_same_bytes_with_every_instruction_set) {
    const auto x = floats(20 * kHeads * 2 * kDim);
    const Heads keys{x.data(), 20, kHeads, kDim, kHeads * 2 * kDim, 2 * kDim};
    const Heads values{x.data() + kDim, 20, kHeads, kDim, kHeads * 2 * kDim, 2 * kDim};
    Pool pool(2);
    for (const int bits : {16, 8})
        same_bits("a cache of " + std::to_string(bits) + " bits", [&](const Kernels& table) {
            KvCache cache(kHeads, kDim, bits);
            cache.append(table, pool, keys, values);
            return contents(cache);
        });
}

TEST(kv_cache_in_use_lets_many_look_or_one_change) {
    KvCache cache(kHeads, kDim, 16);
    {
        const auto one = cache.use.look(), another = cache.use.look();
        CHECK_THROWS(std::runtime_error, static_cast<void>(cache.use.change()));
        const KvCache fork = cache.fork(0);
        CHECK_THROWS(std::runtime_error, static_cast<void>(cache.use.change()));
    }
    {
        const auto only = cache.use.change();
        CHECK_THROWS(std::runtime_error, static_cast<void>(cache.use.look()));
        CHECK_THROWS(std::runtime_error, static_cast<void>(cache.use.change()));
    }
    const auto again = cache.use.change();
}

TEST(kv_cache_in_use_keeps_threads_apart) {
    KvCache cache(kHeads, kDim, 16);
    const Index row = cache.row_bytes();
    const auto rows = bytes(200 * row);
    std::atomic<int> wrong = 0;
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 5; ++thread)
        threads.emplace_back([&, thread] {
            for (int round = 0; round < 200; ++round) {
                try {
                    if (thread < 2) {
                        const auto hold = cache.use.change();
                        if (cache.length() < 200) cache.append_rows(1, rows.data() + cache.length() * row);
                    } else {
                        const auto hold = cache.use.look();
                        wrong += !begins_with(rows, contents(cache));
                    }
                } catch (const std::runtime_error&) {  // the other thread was first
                }
            }
        });
    for (auto& thread : threads) thread.join();
    CHECK_EQUAL(wrong.load(), 0);
    CHECK(begins_with(rows, contents(cache)));
}
