#include "threads/pool.hpp"

#include <algorithm>
#include <utility>

namespace flashmoe {
namespace {

constexpr std::uint32_t kAsleep = 1u << 31;    // in pending_
constexpr std::uint32_t kThreadsMask = 0x7ff;  // in wake_: more threads than that count as so many

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Waits for done() for at most `time`; says whether it came.
template <class Done>
bool spin_until(std::chrono::microseconds time, const Done& done) {
    const auto limit = std::chrono::steady_clock::now() + time;
    do {
        for (int i = 0; i < 16; ++i) {
            if (done()) return true;
            pause();
        }
    } while (std::chrono::steady_clock::now() < limit);
    return false;
}

}  // namespace

Pool::Pool(int threads, Tuning tuning) : tuning_(tuning) {
    // With more threads than processors a spinning thread would hold up the one it waits for.
    spin_ = threads <= static_cast<int>(std::thread::hardware_concurrency());
    workers_.reserve(threads > 1 ? threads - 1 : 0);
    for (int worker = 1; worker < threads; ++worker) workers_.emplace_back([this, worker] { worker_loop(worker); });
}

Pool::~Pool() {
    if (origin_.left()) {
        new std::vector<std::thread>(std::move(workers_));  // nobody is there to be joined
        return;
    }
    stop_.store(true, std::memory_order_release);
    wake(kThreadsMask);
    for (std::thread& worker : workers_) worker.join();
}

void Pool::run_erased(std::uint32_t chunks, Call call, const void* context) {
    origin_.check();  // before the lock, which may have been held when the process forked
    const std::lock_guard lock(one_region_);
    if (workers_.empty() || chunks <= 1) {
        for (std::uint32_t chunk = 0; chunk < chunks; ++chunk) call(context, chunk, 0);
        return;
    }
    const std::uint32_t runs = std::min(static_cast<std::uint32_t>(threads()), chunks);
    const auto in_runs = static_cast<std::uint32_t>(std::uint64_t{chunks} * tuning_.runs / 100);
    const std::uint32_t run = std::max(1u, in_runs / runs);
    region_ = {call, context, chunks, runs, run};
    pending_.store(chunks, std::memory_order_relaxed);
    const std::uint32_t tickets = runs + (chunks - runs * run);
    state_.store(std::uint64_t{tickets} << 32, std::memory_order_release);
    wake(runs);
    work(0);
    wait_for_workers();
}

// Sequentially consistent with a worker that counts itself among the sleepers and then looks at wake_: it sees the
// change, or is seen here.
void Pool::wake(std::uint32_t threads) {
    const std::uint32_t number = wake_.load(std::memory_order_relaxed) / (kThreadsMask + 1) + 1;
    wake_.store(number * (kThreadsMask + 1) + std::min(threads, kThreadsMask), std::memory_order_seq_cst);
    const std::uint32_t asleep = sleepers_.load(std::memory_order_seq_cst);
    if (asleep == 0) return;
    if (threads > asleep) return wake_.notify_all();
    for (std::uint32_t i = 1; i < threads; ++i) wake_.notify_one();
}

void Pool::wait_for_workers() {
    const auto done = [this] { return pending_.load(std::memory_order_acquire) == 0; };
    if (done() || (spin_ && spin_until(tuning_.spin, done))) return;
    std::uint32_t left = pending_.fetch_or(kAsleep, std::memory_order_acq_rel) | kAsleep;
    while (left != kAsleep) {
        pending_.wait(left, std::memory_order_acquire);
        left = pending_.load(std::memory_order_acquire);
    }
}

void Pool::work(int worker) {
    std::uint32_t finished = 0;
    __builtin_prefetch(&region_);  // on its way while the claim is
    for (;;) {
        const std::uint64_t claim = state_.fetch_add(1, std::memory_order_acq_rel);
        const auto ticket = static_cast<std::uint32_t>(claim);
        if (ticket >= claim >> 32) break;
        finished += run_ticket(ticket, worker);
    }
    if (finished == 0) return;
    const std::uint32_t before = pending_.fetch_sub(finished, std::memory_order_acq_rel);
    if (before == (finished | kAsleep)) pending_.notify_all();
}

// Returns how many chunks it computed.
std::uint32_t Pool::run_ticket(std::uint32_t ticket, int worker) const {
    const Region& r = region_;
    const bool is_run = ticket < r.runs;
    const std::uint32_t first = is_run ? ticket * r.run : r.runs * r.run + (ticket - r.runs);
    const std::uint32_t count = is_run ? r.run : 1;
    for (std::uint32_t chunk = first; chunk < first + count; ++chunk) r.call(r.context, chunk, worker);
    return count;
}

void Pool::worker_loop(int worker) {
    std::uint32_t seen = 0;
    while (!stop_.load(std::memory_order_acquire)) {
        const auto woken = [this, seen] { return wake_.load(std::memory_order_acquire) != seen; };
        const bool slept = !spin_ || !spin_until(tuning_.spin, woken);
        if (slept) {
            sleepers_.fetch_add(1, std::memory_order_seq_cst);
            wake_.wait(seen, std::memory_order_seq_cst);
            sleepers_.fetch_sub(1, std::memory_order_relaxed);
        }
        seen = wake_.load(std::memory_order_acquire);
        // A region of few chunks is left to as many threads; who was woken was woken for it.
        if (slept || static_cast<std::uint32_t>(worker) < (seen & kThreadsMask)) work(worker);
    }
}

}  // namespace flashmoe
