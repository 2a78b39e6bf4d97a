// A pool of threads for short parallel regions: a decoded token has some thousand of them, many of 20 us.
//
// The caller takes part. Chunks are handed out by a counter, so who computes a chunk is a matter of chance and a body
// must not let its result depend on it. A worker that wakes late costs nothing: the region ends when every chunk is
// done, not when every worker has looked. Idle workers spin for a while, then sleep.
// Bodies must not throw and must not start a region of the same pool. In a child forked since, a region throws Forked.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "threads/origin.hpp"

namespace flashmoe {

class Pool {
public:
    // What benchmarks/regions.cpp compares; everyone else takes it as it is.
    struct Tuning {
        // How long who waits spins before it sleeps: longer than the interpreter needs between two calls of a layer,
        // far shorter than a token.
        std::chrono::microseconds spin{100};
        // Percent of the chunks that threads claim in runs, one each, instead of one by one.
        std::uint32_t runs = 50;
    };

    explicit Pool(int threads) : Pool(threads, Tuning()) {}
    Pool(int threads, Tuning tuning);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    // Throws Forked in a child forked since the pool was made.
    void check_process() const { origin_.check(); }

    // Threads that compute, the caller included.
    int threads() const { return static_cast<int>(workers_.size()) + 1; }

    // Calls body(chunk, worker) once for each chunk in [0, chunks), fewer than 2^30. `worker` in [0, threads()) is for
    // scratch space. Regions started from several threads run one after the other.
    template <class Body>
    void run(std::uint32_t chunks, const Body& body) {
        run_erased(
            chunks,
            [](const void* context, std::uint32_t chunk, int worker) {
                (*static_cast<const Body*>(context))(chunk, worker);
            },
            &body);
    }

private:
    using Call = void (*)(const void* context, std::uint32_t chunk, int worker);

    // What a region does. A ticket is a claim: the first `runs` tickets are for `run` chunks each, the others for one.
    struct Region {
        Call call;
        const void* context;
        std::uint32_t chunks, runs, run;
    };

    void run_erased(std::uint32_t chunks, Call call, const void* context);
    void wake(std::uint32_t threads);
    void wait_for_workers();
    void work(int worker);
    std::uint32_t run_ticket(std::uint32_t ticket, int worker) const;
    void worker_loop(int worker);

    const Origin origin_;
    const Tuning tuning_;
    std::mutex one_region_;
    // Written by its caller only while no chunk is outstanding; read only by a thread that has claimed a chunk and not
    // yet reported it finished.
    alignas(64) Region region_{};
    // High half: tickets of the region; low half: the next one. One addition claims, and its result alone says whether
    // the claim is good and for which region: a late worker's lands in the old one, which is used up, or in the new.
    alignas(64) std::atomic<std::uint64_t> state_{0};
    alignas(64) std::atomic<std::uint32_t> pending_{0};  // chunks not yet reported finished; kAsleep: the caller sleeps
    alignas(64) std::atomic<std::uint32_t> wake_{0};  // changes with every region, and says how many threads it can use
    std::atomic<bool> stop_{false};
    alignas(64) std::atomic<std::uint32_t> sleepers_{0};  // workers that sleep on wake_, or are about to
    bool spin_;
    std::vector<std::thread> workers_;
};

}  // namespace flashmoe
