// Order, withdrawal, closing and concurrency: a disk behind a gate makes the moment certain.
#include <atomic>
#include <cerrno>
#include <mutex>
#include <set>
#include <thread>

#include "tests/records.hpp"

using namespace records;

namespace {

std::atomic<bool> gate_open = false;
std::mutex order_mutex;
std::vector<off_t> order;  // offsets in the order their reads started

ssize_t gated(int fd, void* to, std::size_t bytes, off_t offset) {
    {
        const std::lock_guard lock(order_mutex);
        order.push_back(offset);
    }
    gate_open.wait(false);
    return pread(fd, to, bytes, offset);
}

void shut_gate() {
    gate_open = false;
    const std::lock_guard lock(order_mutex);
    order.clear();
}

void open_gate() {
    gate_open = true;
    gate_open.notify_all();
}

void wait_for_calls(std::size_t count) {
    while (true) {
        const std::lock_guard lock(order_mutex);
        if (order.size() >= count) return;
    }
}

std::size_t open_descriptors() {
    const std::filesystem::directory_iterator all("/proc/self/fd");
    return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

}  // namespace

TEST(reader_serves_demand_before_prefetch_in_order) {
    const TemporaryFile file;
    shut_gate();
    Reader reader(1, gated);
    const int id = reader.open(file.path, false);
    const auto buffer = make_buffer();
    std::vector<Ticket> tickets{submit(reader, id, 0, buffer, 0)};
    wait_for_calls(1);
    for (const std::size_t record : {10, 11})
        tickets.push_back(submit(reader, id, record, buffer, record, Priority::prefetch));
    for (const std::size_t record : {5, 4}) tickets.push_back(submit(reader, id, record, buffer, record));
    open_gate();
    for (const Ticket ticket : tickets) reader.wait(ticket);
    const std::vector<off_t> wanted{0, 5 * kRecord, 4 * kRecord, 10 * kRecord, 11 * kRecord};
    CHECK(order == wanted);
}

TEST(reader_serves_a_promoted_prefetch_behind_the_demand_before_it) {
    const TemporaryFile file;
    shut_gate();
    Reader reader(1, gated);
    const int id = reader.open(file.path, false);
    const auto buffer = make_buffer();
    std::vector<Ticket> tickets{submit(reader, id, 0, buffer, 0, Priority::prefetch)};
    wait_for_calls(1);
    for (const std::size_t record : {10, 11, 12})
        tickets.push_back(submit(reader, id, record, buffer, record, Priority::prefetch));
    tickets.push_back(submit(reader, id, 5, buffer, 5));
    reader.promote(tickets[2]);
    reader.promote(tickets[2]);
    reader.promote(tickets[0]);  // has started
    tickets.push_back(submit(reader, id, 6, buffer, 6));
    reader.promote(tickets[4]);  // is a demand: keeps its place
    open_gate();
    for (const Ticket ticket : tickets) reader.wait(ticket);
    const std::vector<off_t> wanted{0, 5 * kRecord, 11 * kRecord, 6 * kRecord, 10 * kRecord, 12 * kRecord};
    CHECK(order == wanted);
    CHECK_THROWS(std::invalid_argument, reader.promote(tickets[0]));
}

TEST(reader_starts_no_prefetch_beside_a_demand) {
    const TemporaryFile file;
    shut_gate();
    Reader reader(2, gated);
    const int id = reader.open(file.path, false);
    const auto buffer = make_buffer();
    std::vector<Ticket> tickets{submit(reader, id, 0, buffer, 0)};
    wait_for_calls(1);
    tickets.push_back(submit(reader, id, 7, buffer, 7, Priority::prefetch));
    tickets.push_back(submit(reader, id, 8, buffer, 8, Priority::prefetch));
    tickets.push_back(submit(reader, id, 1, buffer, 1));  // to the second thread, past the prefetches
    wait_for_calls(2);
    open_gate();
    for (const Ticket ticket : tickets) reader.wait(ticket);
    CHECK_EQUAL(order[1], static_cast<off_t>(kRecord));
    CHECK_EQUAL(order.size(), 4u);
}

TEST(reader_starts_no_prefetch_beside_one_that_was_promoted) {
    const TemporaryFile file;
    shut_gate();
    Reader reader(2, gated);
    const int id = reader.open(file.path, false);
    const auto buffer = make_buffer();
    std::vector<Ticket> tickets{submit(reader, id, 0, buffer, 0, Priority::prefetch)};
    wait_for_calls(1);
    reader.promote(tickets[0]);
    tickets.push_back(submit(reader, id, 7, buffer, 7, Priority::prefetch));
    tickets.push_back(submit(reader, id, 8, buffer, 8, Priority::prefetch));
    reader.promote(tickets[2]);  // which the sleeping thread has to hear of
    wait_for_calls(2);
    open_gate();
    for (const Ticket ticket : tickets) reader.wait(ticket);
    const std::vector<off_t> wanted{0, 8 * kRecord, 7 * kRecord};
    CHECK(order == wanted);
}

TEST(reader_runs_two_guesses_at_a_time_and_only_when_nothing_else_waits) {
    const TemporaryFile file;
    shut_gate();
    Reader reader(4, gated);
    const int id = reader.open(file.path, false);
    const auto buffer = make_buffer();
    std::vector<Ticket> tickets;
    for (const std::size_t record : {5, 6, 7, 8})
        tickets.push_back(submit(reader, id, record, buffer, record, Priority::guess));
    wait_for_calls(2);
    reader.promote(tickets[0]);
    reader.promote(tickets[1]);  // so no guess runs, but demands do
    for (const std::size_t record : {1, 2}) tickets.push_back(submit(reader, id, record, buffer, record));
    wait_for_calls(4);
    open_gate();
    for (const Ticket ticket : tickets) reader.wait(ticket);
    CHECK_EQUAL(order.size(), 6u);
    CHECK(std::set<off_t>(order.begin() + 2, order.begin() + 4) == (std::set<off_t>{kRecord, 2 * kRecord}));
}

TEST(reader_is_as_new_after_it_was_drained) {
    const TemporaryFile file;
    shut_gate();
    Reader reader(1, gated);
    const int id = reader.open(file.path, false);
    const auto buffer = make_buffer();
    const Ticket running = submit(reader, id, 0, buffer, 0);
    wait_for_calls(1);
    const Ticket queued = submit(reader, id, 1, buffer, 1);
    std::thread drainer([&] { reader.drain(); });
    open_gate();
    drainer.join();
    CHECK_THROWS(std::invalid_argument, reader.wait(running));
    CHECK_THROWS(std::invalid_argument, reader.wait(queued));
    reader.wait(submit(reader, id, 2, buffer, 2));
    CHECK(holds_record(*buffer, 2, 2));
}

TEST(reader_drains_what_was_submitted_before_and_nothing_else) {
    const TemporaryFile file;
    shut_gate();
    Reader reader(1, gated);
    const int id = reader.open(file.path, false);
    const auto buffer = make_buffer();
    submit(reader, id, 0, buffer, 0);
    wait_for_calls(1);
    const Ticket queued = submit(reader, id, 1, buffer, 1);
    std::optional<std::string> spent;
    std::thread waiter([&] {
        try {
            reader.wait(queued);
        } catch (const std::invalid_argument& error) {
            spent = error.what();
        }
    });
    std::thread drainer([&] { reader.drain(); });
    waiter.join();  // what was withdrawn ends although the drain still waits
    CHECK(spent.has_value());
    const Ticket later = submit(reader, id, 2, buffer, 2);
    open_gate();
    drainer.join();
    reader.wait(later);
    CHECK(holds_record(*buffer, 2, 2));
}

TEST(reader_may_be_drained_while_other_threads_submit) {
    const TemporaryFile file;
    Reader reader(4);
    const int id = reader.open(file.path, false);
    std::atomic<bool> over = false;
    std::atomic<int> wrong = 0;
    std::vector<std::thread> callers;
    for (std::size_t caller = 0; caller < 3; ++caller)
        callers.emplace_back([&, caller] {
            const auto buffer = make_buffer(1);
            for (std::size_t round = 0; round < 300; ++round) {
                const std::size_t record = (round * 7 + caller) % kRecords;
                const Ticket ticket = submit(reader, id, record, buffer, 0, static_cast<Priority>(round % 3));
                try {
                    reader.wait(ticket);
                    wrong += !holds_record(*buffer, 0, record);
                } catch (const std::invalid_argument&) {  // withdrawn, so nothing is read into the buffer any more
                }
            }
        });
    std::thread drainer([&] {
        while (!over) reader.drain();
    });
    for (auto& caller : callers) caller.join();
    over = true;
    drainer.join();
    CHECK_EQUAL(wrong.load(), 0);
}

TEST(reader_withdraws_what_was_promoted) {
    const TemporaryFile file;
    shut_gate();
    Reader reader(1, gated);
    const int id = reader.open(file.path, false);
    const auto buffer = make_buffer();
    const Ticket running = submit(reader, id, 0, buffer, 0);
    wait_for_calls(1);
    const Ticket queued = submit(reader, id, 1, buffer, 1, Priority::prefetch);
    reader.promote(queued);
    CHECK(reader.cancel(queued));
    open_gate();
    reader.wait(running);
    CHECK_EQUAL(order.size(), 1u);
}

TEST(reader_withdraws_only_what_has_not_started) {
    const TemporaryFile file;
    shut_gate();
    Reader reader(1, gated);
    const int id = reader.open(file.path, false);
    const auto buffer = make_buffer();
    const Ticket running = submit(reader, id, 0, buffer, 0);
    wait_for_calls(1);
    const Ticket queued = submit(reader, id, 1, buffer, 1, Priority::prefetch);
    const Ticket kept = submit(reader, id, 2, buffer, 2, Priority::prefetch);
    CHECK(!reader.cancel(running));
    CHECK(reader.cancel(queued));
    CHECK_THROWS(std::invalid_argument, reader.cancel(queued));
    open_gate();
    reader.wait(running);
    reader.wait(kept);
    CHECK(holds_record(*buffer, 2, 2));
    CHECK_EQUAL(static_cast<int>(buffer->data()[kRecord]), 0);
    CHECK_EQUAL(order.size(), 2u);
}

TEST(reader_may_be_destroyed_with_reads_in_flight) {
    const TemporaryFile file;
    const std::size_t before = open_descriptors();
    for (int round = 0; round < 20; ++round) {
        auto buffer = make_buffer();
        Reader reader(3);
        const int id = reader.open(file.path, round % 2 == 0);
        for (std::size_t i = 0; i < kRecords; ++i) submit(reader, id, i, buffer, i, Priority::prefetch);
        buffer.reset();  // the reads keep it
    }
    CHECK_EQUAL(open_descriptors(), before);
}

TEST(reader_waits_no_longer_than_told) {
    const TemporaryFile file;
    shut_gate();
    Reader reader(1, gated);
    const int id = reader.open(file.path, false);
    const auto buffer = make_buffer();
    const Ticket ticket = submit(reader, id, 0, buffer, 0);
    CHECK(!reader.await_any({&ticket, 1}, std::chrono::milliseconds(1)));
    open_gate();
    reader.wait(ticket);
    CHECK(holds_record(*buffer, 0, 0));
}

TEST(reader_close_ends_every_wait) {
    const TemporaryFile file;
    shut_gate();
    Reader reader(1, gated);
    const int id = reader.open(file.path, false);
    const auto buffer = make_buffer();
    const Ticket running = submit(reader, id, 0, buffer, 0);
    wait_for_calls(1);
    const Ticket queued = submit(reader, id, 1, buffer, 1);
    std::optional<ReadError> error;
    std::thread waiter([&] { error = error_of(reader, queued); });
    std::thread closer([&] { reader.close(); });
    waiter.join();  // before the gate opens: it must not wait for the running read
    CHECK(error.has_value());
    CHECK_EQUAL(error->error, ECANCELED);
    open_gate();
    closer.join();
    reader.wait(running);
    CHECK(holds_record(*buffer, 0, 0));
    CHECK_THROWS(std::invalid_argument, submit(reader, id, 0, buffer, 0));
    CHECK_THROWS(std::invalid_argument, reader.open(file.path, false));
}

TEST(reader_serves_several_threads_at_once) {
    const TemporaryFile file;
    Reader reader(4);
    const int id = reader.open(file.path, true);
    std::atomic<int> wrong = 0;
    std::vector<std::thread> callers;
    for (std::size_t caller = 0; caller < 4; ++caller)
        callers.emplace_back([&, caller] {
            const auto buffer = make_buffer(2);
            for (std::size_t round = 0; round < 50; ++round) {
                const std::size_t record = (round * 7 + caller) % kRecords;
                const Ticket wanted = submit(reader, id, record, buffer, 0);
                const Ticket guess = submit(reader, id, (record + 1) % kRecords, buffer, 1, Priority::prefetch);
                if (round % 3 == 0) reader.promote(guess);
                reader.wait(wanted);
                wrong += !holds_record(*buffer, 0, record);
                if (round % 2 == 0 && reader.cancel(guess)) continue;
                if (round % 5 == 0) reader.promote(guess);
                reader.wait(guess);
                wrong += !holds_record(*buffer, 1, (record + 1) % kRecords);
            }
        });
    for (auto& caller : callers) caller.join();
    CHECK_EQUAL(wrong.load(), 0);
}
