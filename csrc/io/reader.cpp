#include "io/reader.hpp"

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace flashmoe {
namespace {

constexpr int kDemand = static_cast<int>(Priority::demand);
constexpr int kPrefetch = static_cast<int>(Priority::prefetch);
constexpr int kGuess = static_cast<int>(Priority::guess);
constexpr int kGuessesAtATime = 2;

std::string describe(const ReadOutcome& outcome, std::size_t wanted) {
    const std::string progress = std::to_string(outcome.bytes) + " of " + std::to_string(wanted) + " bytes";
    if (outcome.error == ENODATA) return "the file ended after " + progress;
    return std::generic_category().message(outcome.error) + " after " + progress;
}

double seconds(std::chrono::steady_clock::time_point time) {
    return std::chrono::duration<double>(time.time_since_epoch()).count();
}

}  // namespace

ReadError::ReadError(Ticket ticket, const ReadOutcome& outcome, std::size_t wanted)
    : std::runtime_error(describe(outcome, wanted)), ticket(ticket), error(outcome.error), got(outcome.bytes) {}

Reader::Reader(int threads, PreadCall call)
    : call_(call), queued_(std::make_unique<std::condition_variable>()),
      finished_(std::make_unique<std::condition_variable>()) {
    if (threads < 1) throw std::invalid_argument("a reader needs at least one thread");
    try {
        for (int i = 0; i < threads; ++i) threads_.emplace_back([this, i] { work(i); });
    } catch (...) {
        close();  // the threads that did start
        throw;
    }
}

Reader::~Reader() {
    close();
    if (!origin_.left()) return;
    queued_.release();
    finished_.release();
    new std::vector<std::thread>(std::move(threads_));  // nobody is there to be joined
}

// Asks before it waits: the mutex may have been held when the process forked.
std::unique_lock<std::mutex> Reader::lock() const {
    origin_.check();
    return std::unique_lock(mutex_);
}

int Reader::open(const std::string& path, bool direct) {
    auto file = std::make_shared<const File>(path, direct);
    const auto lock = this->lock();
    if (closing_) throw std::invalid_argument("the reader is closed");
    files_.push_back(std::move(file));
    return static_cast<int>(files_.size()) - 1;
}

Ticket Reader::submit(int file, std::size_t bytes, std::span<const Place> places,
                      const std::shared_ptr<Buffer>& buffer, Priority priority) {
    for (const Place& place : places)
        if (place.position > buffer->size() || bytes > buffer->size() - place.position)
            throw std::invalid_argument("the read would not fit in its buffer");
    auto lock = this->lock();
    if (closing_) throw std::invalid_argument("the reader is closed");
    if (file < 0 || static_cast<std::size_t>(file) >= files_.size()) throw std::invalid_argument("no such file id");
    const auto& source = files_[static_cast<std::size_t>(file)];
    const Ticket first = last_ticket_ + 1;
    for (const Place& place : places) {
        requests_.emplace(++last_ticket_, Request{file, source, place.offset, bytes, buffer, place.position, priority});
        queues_[static_cast<int>(priority)].push_back(last_ticket_);
    }
    lock.unlock();  // a thread that wakes would wait for it
    queued_->notify_one();  // and wakes the next itself: each wake costs its caller 5 us
    return first;
}

void Reader::wait(Ticket ticket) {
    auto lock = this->lock();
    // Looked up each time: another thread may spend the ticket meanwhile.
    finished_->wait(lock, [&] { return find(ticket).stage == Stage::done; });
    spend(ticket, find(ticket));
}

std::vector<Ticket> Reader::wait_any(std::span<const Ticket> tickets) {
    if (tickets.empty()) throw std::invalid_argument("there is nothing to wait for");
    std::vector<Ticket> done;
    auto lock = this->lock();
    finished_->wait(lock, [&] { return !(done = done_of(tickets)).empty(); });
    spend_all(done);
    return done;
}

bool Reader::await_any(std::span<const Ticket> tickets, std::chrono::milliseconds patience) {
    if (tickets.empty()) throw std::invalid_argument("there is nothing to wait for");
    auto lock = this->lock();
    return finished_->wait_for(lock, patience, [&] { return !done_of(tickets).empty(); });
}

std::vector<Ticket> Reader::ended(std::span<const Ticket> tickets) {
    const auto lock = this->lock();
    std::vector<Ticket> done = done_of(tickets);
    spend_all(done);
    return done;
}

bool Reader::cancel(Ticket ticket) {
    const auto lock = this->lock();
    const Request& request = find(ticket);
    if (request.stage != Stage::queued) return false;
    std::erase(queue_of(request), ticket);
    requests_.erase(ticket);
    finished_->notify_all();
    return true;
}

void Reader::promote(Ticket ticket) {
    const auto lock = this->lock();
    Request& request = find(ticket);
    if (request.stage == Stage::done || request.priority == Priority::demand) return;
    const bool running = request.stage == Stage::running;
    if (running) {
        --running_of(request);
    } else {
        std::erase(queue_of(request), ticket);
    }
    request.priority = Priority::demand;
    if (running) {
        ++running_[kDemand];
        return;
    }
    queues_[kDemand].push_back(ticket);
    queued_->notify_one();  // the threads may have slept beside a queue of prefetches
}

void Reader::drain() {
    auto lock = this->lock();
    const Ticket last = last_ticket_;
    for (auto& queue : queues_) {
        for (const Ticket ticket : queue) requests_.erase(ticket);
        queue.clear();
    }
    finished_->notify_all();  // those who wait for what was withdrawn
    finished_->wait(lock, [&] { return !runs_any(last); });
    std::erase_if(requests_, [last](const auto& entry) { return entry.first <= last; });
    finished_->notify_all();
}

// Whether one of the reads up to this ticket runs.
bool Reader::runs_any(Ticket last) const {
    return std::ranges::any_of(requests_, [last](const auto& entry) {
        return entry.first <= last && entry.second.stage == Stage::running;
    });
}

void Reader::close() {
    if (origin_.left()) return;
    std::vector<std::thread> threads;  // taken by whoever comes first, so that two may close
    {
        const auto lock = this->lock();
        closing_ = true;
        for (auto& queue : queues_) {
            for (const Ticket ticket : queue) {
                requests_.at(ticket).outcome = {0, ECANCELED};
                requests_.at(ticket).stage = Stage::done;
            }
            queue.clear();
        }
        files_.clear();
        threads.swap(threads_);
    }
    queued_->notify_all();
    finished_->notify_all();
    for (auto& thread : threads) thread.join();
}

ReaderCounters Reader::counters() const {
    const auto lock = this->lock();
    ReaderCounters counters = counters_;
    if (all_running_ > 0) counters.read_seconds += std::chrono::duration<double>(Clock::now() - busy_since_).count();
    return counters;
}

bool Reader::direct(int file) const {
    const auto lock = this->lock();
    if (file < 0 || static_cast<std::size_t>(file) >= files_.size()) throw std::invalid_argument("no such file id");
    return files_[static_cast<std::size_t>(file)]->direct();
}

void Reader::keep_log(std::size_t capacity) {
    const auto lock = this->lock();
    log_.keep(capacity);
}

ReadLog Reader::log() const {
    const auto lock = this->lock();
    return log_;
}

int Reader::startable() const {
    if (!queues_[kDemand].empty()) return kDemand;
    if (running_[kDemand] > 0) return kPriorities;
    if (!queues_[kPrefetch].empty()) return kPrefetch;
    return !queues_[kGuess].empty() && running_[kGuess] < kGuessesAtATime ? kGuess : kPriorities;
}

void Reader::work(int thread) {
    auto lock = this->lock();
    while (true) {
        int next = kPriorities;
        queued_->wait(lock, [&] { return closing_ || (next = startable()) < kPriorities; });
        if (closing_) return;
        auto& queue = queues_[next];
        // The reference stays good while unlocked: a running request is never erased, and the map's nodes stay put.
        Request& request = requests_.at(queue.front());
        queue.pop_front();
        request.stage = Stage::running;
        ++running_[next];
        const auto begin = Clock::now();
        if (all_running_++ == 0) busy_since_ = begin;
        const bool more = startable() < kPriorities;
        lock.unlock();
        if (more) queued_->notify_one();
        const ReadOutcome outcome =
            request.file->read(call_, request.buffer->data() + request.position, request.bytes, request.offset);
        lock.lock();
        if (log_.wanted())
            log_.add({request.id, request.offset, outcome.bytes, thread, next != kDemand, seconds(begin),
                      seconds(Clock::now())});
        finish(request, outcome);
    }
}

void Reader::finish(Request& request, const ReadOutcome& outcome) {
    request.outcome = outcome;
    request.stage = Stage::done;
    request.buffer.reset();
    request.file.reset();
    if (--running_of(request) == 0 && request.priority == Priority::demand && startable() < kPriorities)
        queued_->notify_one();
    if (--all_running_ == 0) counters_.read_seconds += std::chrono::duration<double>(Clock::now() - busy_since_).count();
    if (outcome.error == 0) {
        ++counters_.reads;
        counters_.bytes_read += outcome.bytes;
    }
    finished_->notify_all();
}

Reader::Request& Reader::find(Ticket ticket) {
    const auto found = requests_.find(ticket);
    if (found == requests_.end())
        throw std::invalid_argument("ticket " + std::to_string(ticket) + " is unknown or spent");
    return found->second;
}

std::vector<Ticket> Reader::done_of(std::span<const Ticket> tickets) {
    std::vector<Ticket> done;
    for (const Ticket ticket : tickets)
        if (find(ticket).stage == Stage::done) done.push_back(ticket);
    return done;
}

void Reader::spend_all(std::span<const Ticket> done) {
    for (const Ticket ticket : done)
        if (const Request& request = find(ticket); request.outcome.error != 0) spend(ticket, request);
    for (const Ticket ticket : done) requests_.erase(ticket);
}

void Reader::spend(Ticket ticket, const Request& request) {
    const ReadOutcome outcome = request.outcome;
    const std::size_t wanted = request.bytes;
    requests_.erase(ticket);
    if (outcome.error != 0) throw ReadError(ticket, outcome, wanted);
}

}  // namespace flashmoe
