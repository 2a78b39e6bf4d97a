// The reader on a disk that misbehaves.
#include <fcntl.h>

#include <algorithm>
#include <atomic>
#include <cerrno>

#include "tests/records.hpp"

using namespace records;

namespace {

// Disks with the signature of pread.
std::atomic<int> calls = 0;

ssize_t short_and_interrupted(int fd, void* to, std::size_t bytes, off_t offset) {
    if (++calls % 3 == 0) {
        errno = EINTR;
        return -1;
    }
    return pread(fd, to, std::min<std::size_t>(bytes, 1000), offset);
}

ssize_t fails_in_the_second_page(int fd, void* to, std::size_t bytes, off_t offset) {
    if (static_cast<std::size_t>(offset) % kRecord < kPage) return pread(fd, to, std::min(bytes, kPage), offset);
    errno = EIO;
    return -1;
}

ssize_t refuses_direct(int fd, void* to, std::size_t bytes, off_t offset) {
    if ((fcntl(fd, F_GETFL) & O_DIRECT) != 0) {
        ++calls;
        errno = EINVAL;
        return -1;
    }
    return pread(fd, to, bytes, offset);
}

}  // namespace

TEST(reader_goes_on_after_short_and_interrupted_reads) {
    const TemporaryFile file;
    for (const bool direct : {false, true}) {
        Reader reader(2, short_and_interrupted);
        const int id = reader.open(file.path, direct);
        const auto buffer = make_buffer();
        for (const std::size_t record : {0, 7, 39}) {
            reader.wait(submit(reader, id, record, buffer, 1));
            CHECK(holds_record(*buffer, 1, record));
        }
    }
}

TEST(reader_tells_how_far_a_truncated_file_went) {
    for (const std::size_t missing : {std::size_t{1}, std::size_t{100}, kPage, kRecord - 1}) {
        const TemporaryFile file(kRecord * 2 - missing);
        for (const bool direct : {false, true}) {
            Reader reader(1);
            const int id = reader.open(file.path, direct);
            const auto buffer = make_buffer(2);
            const auto error = error_of(reader, submit(reader, id, 1, buffer, 0));
            CHECK(error.has_value());
            CHECK_EQUAL(error->error, ENODATA);
            CHECK_EQUAL(error->got, kRecord - missing);
            reader.wait(submit(reader, id, 0, buffer, 1));  // others are none the worse
            CHECK(holds_record(*buffer, 1, 0));
        }
    }
}

TEST(reader_reports_an_io_error_with_its_ticket) {
    const TemporaryFile file;
    Reader reader(2, fails_in_the_second_page);
    const int id = reader.open(file.path, false);
    const auto buffer = make_buffer();
    const Ticket ticket = submit(reader, id, 3, buffer, 0);
    const auto error = error_of(reader, ticket);
    CHECK(error.has_value());
    CHECK_EQUAL(error->ticket, ticket);
    CHECK_EQUAL(error->error, EIO);
    CHECK_EQUAL(error->got, kPage);
    CHECK_THROWS(std::invalid_argument, reader.wait(ticket));
    CHECK_EQUAL(reader.counters().reads, 0u);
}

TEST(reader_falls_back_where_the_first_direct_read_is_refused) {
    const TemporaryFile file;
    calls = 0;
    Reader reader(1, refuses_direct);
    const int id = reader.open(file.path, true);
    const auto buffer = make_buffer();
    for (std::size_t i = 0; i < 5; ++i) {
        reader.wait(submit(reader, id, i, buffer, i));
        CHECK(holds_record(*buffer, i, i));
    }
    CHECK(calls <= 1);  // none at all where open itself refuses O_DIRECT
    CHECK(!reader.direct(id));
}

TEST(reader_wait_any_spends_only_the_ticket_that_failed) {
    const TemporaryFile file(kRecord * 2);
    Reader reader(1);
    const int id = reader.open(file.path, false);
    const auto buffer = make_buffer(3);
    const Ticket good = submit(reader, id, 0, buffer, 0);
    const Ticket bad = submit(reader, id, 2, buffer, 2);
    const Ticket later = submit(reader, id, 1, buffer, 1);
    const std::vector<Ticket> all{good, bad, later};
    std::vector<Ticket> left = all;
    bool failed = false;
    while (!left.empty()) {
        try {
            for (const Ticket ticket : reader.wait_any(left)) std::erase(left, ticket);
        } catch (const ReadError& error) {
            CHECK_EQUAL(error.ticket, bad);
            std::erase(left, bad);
            failed = true;
        }
    }
    CHECK(failed);
    CHECK(holds_record(*buffer, 0, 0));
    CHECK(holds_record(*buffer, 1, 1));
}
