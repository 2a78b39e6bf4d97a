// Who is at work on an object that has no lock of its own: several that look, or one that changes it. Whoever comes
// between gets an error instead of a race.
#pragma once

#include <atomic>
#include <stdexcept>
#include <utility>

namespace flashmoe {

class InUse {
public:
    // Ends with the use.
    class Hold {
    public:
        Hold(std::atomic<int>& users, int amount) : users_(&users), amount_(amount) {}
        Hold(Hold&& other) noexcept : users_(std::exchange(other.users_, nullptr)), amount_(other.amount_) {}
        Hold& operator=(Hold&&) = delete;
        ~Hold() {
            if (users_) users_->fetch_sub(amount_, std::memory_order_release);
        }

    private:
        std::atomic<int>* users_;
        int amount_;
    };

    InUse() = default;
    // What is copied or moved is another object, which nobody uses yet.
    InUse(const InUse&) noexcept {}
    InUse& operator=(const InUse&) = delete;

    // Both throw std::runtime_error.
    [[nodiscard]] Hold look() const { return hold(1); }
    [[nodiscard]] Hold change() { return hold(kOne); }

private:
    // What one that changes counts: more than all that may look.
    static constexpr int kOne = 1 << 20;

    Hold hold(int amount) const {
        int users = users_.load(std::memory_order_relaxed);
        do {
            if (users >= kOne || (amount == kOne && users > 0))
                throw std::runtime_error(
                    "this state is in use by another thread; while one changes a state, no other may use it");
        } while (!users_.compare_exchange_weak(users, users + amount, std::memory_order_acquire));
        return Hold(users_, amount);
    }

    mutable std::atomic<int> users_{0};
};

}  // namespace flashmoe
