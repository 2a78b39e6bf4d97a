// A pool of threads for short parallel regions: a decoded token has some five hundred of them, many of 20 us.
//
// The caller takes part. Chunks are handed out by a counter, so who computes a chunk is a matter of chance and a body
// must not let its result depend on it. A worker that wakes late costs nothing: the region ends when every chunk is
// done, not when every worker has looked. Idle workers spin for kSpin, then sleep.
// Bodies must not throw and must not start a region of the same pool.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace flashmoe {

class Pool {
public:
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    // Threads that compute, the caller included.
    int threads() const { return static_cast<int>(workers_.size()) + 1; }

    // Calls body(chunk, worker) once for each chunk in [0, chunks). `worker` in [0, threads()) is for scratch space.
    // Regions started from several threads run one after the other.
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

    void run_erased(std::uint32_t chunks, Call call, const void* context);
    void work(int worker);
    void worker_loop(int worker);

    std::mutex region_;
    // What the present region does. Written by its caller only while no chunk is outstanding; read only by a thread
    // that has claimed a chunk and not yet finished it.
    Call call_ = nullptr;
    const void* context_ = nullptr;
    std::uint32_t chunks_ = 0;

    // High half: number of the region, so that a late worker's claim fails; low half: chunks not yet claimed.
    alignas(64) std::atomic<std::uint64_t> state_{0};
    alignas(64) std::atomic<std::uint32_t> pending_{0};  // chunks not yet finished
    alignas(64) std::atomic<std::uint32_t> wake_{0};     // changes with every region; idle workers sleep on it
    std::atomic<bool> stop_{false};
    bool spin_;
    std::vector<std::thread> workers_;
};

}  // namespace flashmoe
