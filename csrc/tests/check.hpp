// A test framework that fits in the head: TEST registers a case, CHECK says what did not hold and where.
#pragma once

#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace check {

struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// What this machine cannot run is said, not passed over.
struct Skipped : std::runtime_error {
    using std::runtime_error::runtime_error;
};

[[noreturn]] inline void skip(const std::string& why) { throw Skipped(why); }

struct Case {
    std::string name;
    std::function<void()> body;
};

inline std::vector<Case>& cases() {
    static std::vector<Case> all;
    return all;
}

struct Registered {
    Registered(const char* name, std::function<void()> body) { cases().push_back({name, std::move(body)}); }
};

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
    throw Failure(std::string(file) + ":" + std::to_string(line) + ": " + what);
}

template <typename Left, typename Right>
void equal(const Left& left, const Right& right, const char* text, const char* file, int line) {
    if (left == right) return;
    std::ostringstream message;
    message << text << ": " << +left << " is not " << +right;
    fail(file, line, message.str());
}

}  // namespace check

// The name of a case starts with the part it tests: `reader_...`, so that one part can be run alone.
#define TEST(name)                                                  \
    static void test_##name();                                      \
    static const check::Registered registered_##name(#name, test_##name); \
    static void test_##name()

#define CHECK(condition) \
    if (!(condition)) check::fail(__FILE__, __LINE__, #condition)

#define CHECK_EQUAL(left, right) check::equal((left), (right), #left " == " #right, __FILE__, __LINE__)

#define CHECK_THROWS(Type, statement)                                      \
    do {                                                                   \
        bool thrown = false;                                               \
        try {                                                              \
            statement;                                                     \
        } catch (const Type&) {                                            \
            thrown = true;                                                 \
        }                                                                  \
        if (!thrown) check::fail(__FILE__, __LINE__, #statement " throws " #Type); \
    } while (false)
