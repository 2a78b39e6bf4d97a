// The process that an object was made in. fork() copies memory but not threads: what waits for threads of its own would
// wait for ever in the child, so it asks here first.
#pragma once

#include <cstdint>
#include <stdexcept>

namespace flashmoe {

// Thrown in the child by what was made before the fork.
class Forked : public std::runtime_error {
public:
    Forked();
};

class Origin {
public:
    Origin();
    // Whether this is a child forked since.
    bool left() const;
    // Throws Forked there.
    void check() const;

private:
    std::uint64_t forks_;
};

}  // namespace flashmoe
