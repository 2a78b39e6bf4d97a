// In a forked child, what has threads of its own says so instead of waiting for them.
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <memory>

#include "tests/records.hpp"
#include "threads/pool.hpp"

using namespace records;

namespace {

// How a child ends that runs this: 0 if it returned.
int in_child(const std::function<void()>& body) {
    const pid_t child = fork();
    if (child == 0) {
        alarm(60);  // a child that hangs ends by this
        try {
            body();
        } catch (...) {
            _exit(1);
        }
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return status;
}

}  // namespace

TEST(reader_made_before_a_fork_says_so_in_the_child) {
    const TemporaryFile file;
    auto reader = std::make_unique<Reader>(2);
    const int id = reader->open(file.path, false);
    const auto buffer = make_buffer();
    const Ticket ended = submit(*reader, id, 0, buffer, 0);
    CHECK_EQUAL(in_child([&] {
        CHECK_THROWS(Forked, submit(*reader, id, 1, buffer, 1));
        CHECK_THROWS(Forked, reader->wait(ended));
        CHECK_THROWS(Forked, reader->drain());
        CHECK_THROWS(Forked, reader->open(file.path, false));
        reader->close();
        reader.reset();
    }), 0);
    reader->wait(ended);
    CHECK(holds_record(*buffer, 0, 0));
}

TEST(pool_made_before_a_fork_says_so_in_the_child) {
    auto pool = std::make_unique<Pool>(3);
    const auto body = [](std::uint32_t, int) {};
    pool->run(8, body);
    CHECK_EQUAL(in_child([&] {
        CHECK_THROWS(Forked, pool->run(8, body));
        CHECK_THROWS(Forked, pool->check_process());
        pool.reset();
    }), 0);
    pool->run(8, body);
}
