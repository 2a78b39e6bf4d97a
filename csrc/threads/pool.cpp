#include "threads/pool.hpp"

#include <chrono>

namespace flashmoe {
namespace {

// Longer than the interpreter needs between two calls of a layer (about 10 us), far shorter than a token.
constexpr std::chrono::microseconds kSpin{30};

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Waits for done() for at most kSpin; says whether it came.
template <class Done>
bool spin_until(const Done& done) {
    const auto limit = std::chrono::steady_clock::now() + kSpin;
    do {
        for (int i = 0; i < 16; ++i) {
            if (done()) return true;
            pause();
        }
    } while (std::chrono::steady_clock::now() < limit);
    return false;
}

}  // namespace

Pool::Pool(int threads) {
    // With more threads than processors a spinning thread would hold up the one it waits for.
    spin_ = threads <= static_cast<int>(std::thread::hardware_concurrency());
    workers_.reserve(threads > 1 ? threads - 1 : 0);
    for (int worker = 1; worker < threads; ++worker) workers_.emplace_back([this, worker] { worker_loop(worker); });
}

Pool::~Pool() {
    stop_.store(true, std::memory_order_release);
    wake_.fetch_add(1, std::memory_order_release);
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

void Pool::run_erased(std::uint32_t chunks, Call call, const void* context) {
    const std::lock_guard lock(region_);
    if (workers_.empty() || chunks <= 1) {
        for (std::uint32_t chunk = 0; chunk < chunks; ++chunk) call(context, chunk, 0);
        return;
    }
    call_ = call;
    context_ = context;
    chunks_ = chunks;
    pending_.store(chunks, std::memory_order_relaxed);
    const std::uint64_t region = (state_.load(std::memory_order_relaxed) >> 32) + 1;
    state_.store(region << 32 | chunks, std::memory_order_release);
    wake_.fetch_add(1, std::memory_order_release);
    wake_.notify_all();

    work(0);
    const auto done = [this] { return pending_.load(std::memory_order_acquire) == 0; };
    if (spin_ && spin_until(done)) return;
    while (const std::uint32_t left = pending_.load(std::memory_order_acquire))
        pending_.wait(left, std::memory_order_acquire);
}

void Pool::work(int worker) {
    std::uint64_t state = state_.load(std::memory_order_acquire);
    while (const auto unclaimed = static_cast<std::uint32_t>(state)) {
        if (!state_.compare_exchange_weak(state, state - 1, std::memory_order_acq_rel, std::memory_order_acquire))
            continue;
        call_(context_, chunks_ - unclaimed, worker);
        if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_all();
        state = state_.load(std::memory_order_acquire);
    }
}

void Pool::worker_loop(int worker) {
    std::uint32_t seen = 0;
    while (!stop_.load(std::memory_order_acquire)) {
        const auto woken = [this, seen] { return wake_.load(std::memory_order_acquire) != seen; };
        if (!spin_ || !spin_until(woken)) wake_.wait(seen, std::memory_order_acquire);
        seen = wake_.load(std::memory_order_acquire);
        work(worker);
    }
}

}  // namespace flashmoe
