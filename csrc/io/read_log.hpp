// The last reads of a reader, for a timeline. Not synchronised: its owner's lock guards it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace flashmoe {

// One read that ended, well or not; begin and end in seconds of the steady clock.
struct ReadEvent {
    int file;
    std::uint64_t offset;
    std::size_t bytes;
    int thread;
    bool prefetch;
    double begin;
    double end;
};

// A ring of `capacity` events; of none while nobody wants them.
class ReadLog {
public:
    bool wanted() const { return !events_.empty(); }

    // Forgets everything and keeps the last `capacity` events from now on.
    void keep(std::size_t capacity) {
        events_.assign(capacity, {});
        added_ = 0;
    }

    void add(const ReadEvent& event) { events_[added_++ % events_.size()] = event; }

    // Events since keep(), overwritten ones included.
    std::uint64_t added() const { return added_; }

    // What is kept, oldest first.
    std::vector<ReadEvent> events() const {
        const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(added_, events_.size()));
        std::vector<ReadEvent> found;
        found.reserve(count);
        for (std::uint64_t i = added_ - count; i < added_; ++i) found.push_back(events_[i % events_.size()]);
        return found;
    }

private:
    std::vector<ReadEvent> events_;
    std::uint64_t added_ = 0;
};

}  // namespace flashmoe
