// Runs the cases whose names start with one of the arguments, or all of them.
#include <cstdio>
#include <exception>
#include <string_view>

#include "tests/check.hpp"

static bool wanted(std::string_view name, int count, char** prefixes) {
    for (int i = 0; i < count; ++i)
        if (name.starts_with(prefixes[i])) return true;
    return count == 0;
}

int main(int argc, char** argv) {
    int ran = 0;
    int failed = 0;
    for (const auto& test : check::cases()) {
        if (!wanted(test.name, argc - 1, argv + 1)) continue;
        ++ran;
        try {
            test.body();
        } catch (const check::Skipped& reason) {
            std::printf("SKIPPED %s: %s\n", test.name.c_str(), reason.what());
        } catch (const std::exception& error) {
            ++failed;
            std::printf("FAILED %s\n  %s\n", test.name.c_str(), error.what());
        }
    }
    std::printf("%d tests, %d failed\n", ran, failed);
    return failed == 0 && ran > 0 ? 0 : 1;
}
