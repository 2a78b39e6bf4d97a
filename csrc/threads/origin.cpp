#include "threads/origin.hpp"

#include <pthread.h>

#include <atomic>

namespace flashmoe {
namespace {

// Counted up in each child: one load instead of the system call that asks for the process.
std::atomic<std::uint64_t> forks{0};

std::uint64_t count_forks() {
    static const int registered = pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
    (void)registered;
    return forks.load(std::memory_order_relaxed);
}

}  // namespace

Forked::Forked()
    : std::runtime_error("this process was forked after the model was loaded, and its threads stayed behind; load the "
                         "model after forking") {}

Origin::Origin() : forks_(count_forks()) {}

bool Origin::left() const { return forks.load(std::memory_order_relaxed) != forks_; }

void Origin::check() const {
    if (left()) throw Forked();
}

}  // namespace flashmoe
