// Reads of whole records by a pool of threads, first come first served. A prefetch or a guess starts when no demand is
// queued or running, so that it takes no bandwidth from one; what turns out to be wanted is promoted to a demand. Of
// guesses few run at a time: a demand has to share the disk with those that run when it comes.
// Knows files, offsets and buffers; does not know what a record means. Safe to use from several threads. In a child
// forked since it was made, everything but the end throws Forked.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "io/buffer.hpp"
#include "io/file.hpp"
#include "io/read_log.hpp"
#include "threads/origin.hpp"

namespace flashmoe {

using Ticket = std::int64_t;

enum class Priority { demand = 0, prefetch = 1, guess = 2 };
inline constexpr int kPriorities = 3;

// A read that failed: which, why (an errno; ENODATA: the file ended first), and how many bytes had arrived.
class ReadError : public std::runtime_error {
public:
    ReadError(Ticket ticket, const ReadOutcome& outcome, std::size_t wanted);

    Ticket ticket;
    int error;
    std::size_t got;
};

// Where one of several reads of the same length begins: in its file, and in the buffer it goes to.
struct Place {
    std::uint64_t offset;
    std::size_t position;
};

struct ReaderCounters {
    std::uint64_t reads = 0;       // completed without error
    std::uint64_t bytes_read = 0;  // by those
    double read_seconds = 0.0;     // time with at least one read running, so bytes_read / read_seconds is bandwidth
};

class Reader {
public:
    explicit Reader(int threads, PreadCall call = &::pread);
    // Withdraws what has not started and waits for what has.
    ~Reader();
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;

    // An id to submit reads of this file with. Throws as File does.
    int open(const std::string& path, bool direct);

    // Queues reads of file[offset, offset + bytes) to buffer[position, position + bytes), in this order, and returns the
    // first of as many consecutive tickets. The buffer lives at least until they have ended. Throws
    // std::invalid_argument for an unknown file or a range outside the buffer, and then queues none.
    Ticket submit(int file, std::size_t bytes, std::span<const Place> places, const std::shared_ptr<Buffer>& buffer,
                  Priority priority);

    // Waits for one read. Its ticket is then spent, also when ReadError is thrown.
    void wait(Ticket ticket);

    // Waits until at least one has ended and returns all that have: their tickets are spent. If one of them failed,
    // throws its ReadError and spends that ticket alone.
    std::vector<Ticket> wait_any(std::span<const Ticket> tickets);

    // Waits until at least one has ended, or false once the time is up, and spends none: whoever is interrupted here has
    // lost nothing.
    bool await_any(std::span<const Ticket> tickets, std::chrono::milliseconds patience);

    // wait_any without waiting: perhaps none has ended.
    std::vector<Ticket> ended(std::span<const Ticket> tickets);

    // Withdraws a read that has not started and spends its ticket; false if it has started, and is still to be waited
    // for.
    bool cancel(Ticket ticket);

    // Makes a prefetch or guess that has not ended a demand, behind those that are queued if it has not started.
    void promote(Ticket ticket);

    // Withdraws what has not started, waits for the rest, and spends all their tickets; those that others submit
    // meanwhile are not concerned.
    void drain();

    // What the destructor does; nothing in a forked child. Those who wait for a withdrawn read get ReadError with
    // ECANCELED.
    void close();

    ReaderCounters counters() const;
    // Whether reads of this file bypass the page cache.
    bool direct(int file) const;

    // Keeps the last `capacity` reads that end from now on; 0: none, which is how a reader starts.
    void keep_log(std::size_t capacity);
    // The log as it stands.
    ReadLog log() const;

private:
    enum class Stage { queued, running, done };
    struct Request {
        int id;
        std::shared_ptr<const File> file;
        std::uint64_t offset;
        std::size_t bytes;
        std::shared_ptr<Buffer> buffer;
        std::size_t position;
        Priority priority;
        Stage stage = Stage::queued;
        ReadOutcome outcome{0, 0};
    };
    using Clock = std::chrono::steady_clock;

    std::unique_lock<std::mutex> lock() const;
    bool runs_any(Ticket last) const;
    // The queue to take the next read from; kPriorities if none may start.
    int startable() const;
    std::deque<Ticket>& queue_of(const Request& request) { return queues_[static_cast<int>(request.priority)]; }
    int& running_of(const Request& request) { return running_[static_cast<int>(request.priority)]; }
    void work(int thread);
    void finish(Request& request, const ReadOutcome& outcome);
    Request& find(Ticket ticket);
    std::vector<Ticket> done_of(std::span<const Ticket> tickets);
    void spend_all(std::span<const Ticket> done);
    void spend(Ticket ticket, const Request& request);

    const Origin origin_;
    const PreadCall call_;
    mutable std::mutex mutex_;
    // Not members: in a forked child nobody could destroy them, as threads that are not there still wait.
    std::unique_ptr<std::condition_variable> queued_, finished_;
    std::vector<std::shared_ptr<const File>> files_;
    std::unordered_map<Ticket, Request> requests_;
    std::deque<Ticket> queues_[kPriorities];
    Ticket last_ticket_ = 0;
    int running_[kPriorities] = {};
    int all_running_ = 0;
    Clock::time_point busy_since_;
    ReaderCounters counters_;
    ReadLog log_;
    bool closing_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace flashmoe
