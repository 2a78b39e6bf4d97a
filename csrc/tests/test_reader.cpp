// The reader on files that are as they should be.
#include <sys/stat.h>

#include <stdexcept>
#include <system_error>

#include "tests/records.hpp"

using namespace records;

static constexpr std::chrono::minutes kMinute{1};

TEST(reader_fills_slots_with_the_records_of_the_file) {
    const TemporaryFile file;
    for (const bool direct : {false, true}) {
        Reader reader(4);
        const int id = reader.open(file.path, direct);
        const auto buffer = make_buffer();
        std::vector<Ticket> tickets;
        for (std::size_t i = 0; i < kRecords; ++i) tickets.push_back(submit(reader, id, i, buffer, kRecords - 1 - i));
        for (const Ticket ticket : tickets) reader.wait(ticket);
        for (std::size_t i = 0; i < kRecords; ++i) CHECK(holds_record(*buffer, kRecords - 1 - i, i));
        CHECK_EQUAL(reader.counters().reads, kRecords);
        CHECK_EQUAL(reader.counters().bytes_read, kRecords * kRecord);
        CHECK(reader.counters().read_seconds > 0.0);
    }
}

TEST(reader_reads_ranges_that_direct_io_would_refuse) {
    const TemporaryFile file;
    Reader reader(2);
    const int id = reader.open(file.path, true);
    const auto buffer = make_buffer();
    const Place place{4097, 3};
    reader.wait(reader.submit(id, 8191, {&place, 1}, buffer, Priority::demand));
    for (std::size_t i = 0; i < 8191; ++i) CHECK(buffer->data()[3 + i] == expected(4097 + i));
}

TEST(reader_takes_several_reads_at_once_and_numbers_them_in_order) {
    const TemporaryFile file;
    Reader reader(3);
    const int id = reader.open(file.path, true);
    const auto buffer = make_buffer();
    std::vector<Place> places;
    for (std::size_t i = 0; i < kRecords; ++i) places.push_back({(kRecords - 1 - i) * kRecord, i * kRecord});
    const Ticket first = reader.submit(id, kRecord, places, buffer, Priority::demand);
    for (std::size_t i = 0; i < kRecords; ++i) {
        reader.wait(first + static_cast<Ticket>(i));
        CHECK(holds_record(*buffer, i, kRecords - 1 - i));
    }
    CHECK_EQUAL(reader.submit(id, kRecord, {}, buffer, Priority::demand), first + static_cast<Ticket>(kRecords));
}

TEST(reader_awaits_without_spending) {
    const TemporaryFile file;
    Reader reader(3);
    const int id = reader.open(file.path, false);
    const auto buffer = make_buffer();
    const std::vector<Ticket> tickets{submit(reader, id, 3, buffer, 0), submit(reader, id, kRecords, buffer, 1)};
    CHECK(reader.await_any(tickets, kMinute));
    CHECK(reader.await_any({&tickets[1], 1}, kMinute));  // its failure is for those who spend it
    CHECK_THROWS(ReadError, reader.ended({&tickets[1], 1}));
    CHECK(reader.await_any({&tickets[0], 1}, kMinute));
    CHECK(reader.ended({&tickets[0], 1}) == std::vector<Ticket>{tickets[0]});
    CHECK(reader.ended({}).empty());
    CHECK_THROWS(std::invalid_argument, reader.await_any({}, kMinute));
    CHECK_THROWS(std::invalid_argument, reader.await_any(tickets, kMinute));
}

TEST(reader_wait_any_returns_what_has_ended) {
    const TemporaryFile file;
    Reader reader(3);
    const int id = reader.open(file.path, true);
    const auto buffer = make_buffer();
    std::vector<Ticket> waiting;
    for (std::size_t i = 0; i < kRecords; ++i) waiting.push_back(submit(reader, id, i, buffer, i));
    while (!waiting.empty()) {
        const auto ended = reader.wait_any(waiting);
        CHECK(!ended.empty());
        for (const Ticket ticket : ended) {
            CHECK_EQUAL(std::erase(waiting, ticket), 1u);
            CHECK(holds_record(*buffer, static_cast<std::size_t>(ticket - 1), static_cast<std::size_t>(ticket - 1)));
        }
    }
    CHECK_THROWS(std::invalid_argument, reader.wait_any(waiting));
}

TEST(reader_refuses_misuse) {
    const TemporaryFile file;
    Reader reader(1);
    const int id = reader.open(file.path, false);
    const auto buffer = make_buffer(1);
    CHECK_THROWS(std::invalid_argument, submit(reader, id, 0, buffer, 1));
    const Place beside{0, 1};
    CHECK_THROWS(std::invalid_argument, reader.submit(id, ~std::size_t{0}, {&beside, 1}, buffer, Priority::demand));
    const std::vector<Place> good_and_bad{{0, 0}, {0, kRecord}};
    CHECK_THROWS(std::invalid_argument, reader.submit(id, kRecord, good_and_bad, buffer, Priority::demand));
    CHECK_THROWS(std::invalid_argument, reader.wait(1));  // the good one was not queued either
    CHECK_THROWS(std::invalid_argument, submit(reader, id + 1, 0, buffer, 0));
    CHECK_THROWS(std::invalid_argument, submit(reader, -1, 0, buffer, 0));
    CHECK_THROWS(std::invalid_argument, reader.wait(99));
    CHECK_THROWS(std::invalid_argument, Reader(0));
    CHECK_THROWS(std::system_error, reader.open(file.path + ".none", true));
}

TEST(reader_opens_regular_files_alone) {
    const TemporaryFile file;
    Reader reader(1);
    const std::string pipe = file.path + ".pipe";
    CHECK_EQUAL(mkfifo(pipe.c_str(), 0600), 0);
    for (const bool direct : {false, true})
        for (const std::string& path : {pipe, std::string("/dev/zero"), std::filesystem::temp_directory_path().string()})
            CHECK_THROWS(NotRegular, reader.open(path, direct));
    std::filesystem::remove(pipe);
}

TEST(reader_keeps_no_log_unless_told) {
    const TemporaryFile file;
    Reader reader(2);
    const auto buffer = make_buffer();
    reader.wait(submit(reader, reader.open(file.path, false), 0, buffer, 0));
    CHECK_EQUAL(reader.log().added(), 0u);
    CHECK(reader.log().events().empty());
}

TEST(reader_logs_the_last_reads) {
    const TemporaryFile file;
    Reader reader(1);
    reader.keep_log(3);
    const int id = reader.open(file.path, false);
    const auto buffer = make_buffer();
    for (std::size_t record = 0; record < 5; ++record)
        reader.wait(submit(reader, id, record, buffer, record, record == 3 ? Priority::prefetch : Priority::demand));
    const ReadLog log = reader.log();
    CHECK_EQUAL(log.added(), 5u);
    const auto events = log.events();
    CHECK_EQUAL(events.size(), 3u);
    for (std::size_t i = 0; i < 3; ++i) {
        CHECK_EQUAL(events[i].file, id);
        CHECK_EQUAL(events[i].offset, (i + 2) * kRecord);
        CHECK_EQUAL(events[i].bytes, kRecord);
        CHECK_EQUAL(events[i].thread, 0);
        CHECK_EQUAL(events[i].prefetch, i == 1);
        CHECK(events[i].begin <= events[i].end);
        CHECK(i == 0 || events[i - 1].end <= events[i].begin);
    }
    reader.keep_log(0);
    reader.wait(submit(reader, id, 0, buffer, 0));
    CHECK(reader.log().events().empty());
}

TEST(reader_log_may_be_read_while_reads_run) {
    const TemporaryFile file;
    Reader reader(4);
    reader.keep_log(8);
    const int id = reader.open(file.path, false);
    const auto buffer = make_buffer();
    std::vector<Ticket> tickets;
    for (std::size_t record = 0; record < kRecords; ++record)
        tickets.push_back(submit(reader, id, record, buffer, record));
    while (reader.log().added() < kRecords) {
        for (const ReadEvent& event : reader.log().events()) CHECK(event.thread >= 0 && event.thread < 4);
    }
    for (const Ticket ticket : tickets) reader.wait(ticket);
    CHECK_EQUAL(reader.log().events().size(), 8u);
}
