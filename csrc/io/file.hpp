// A file to read records from, opened twice where direct reads are asked for. Knows descriptors, not queues.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <sys/types.h>

namespace flashmoe {

// A file descriptor with an owner.
class Descriptor {
public:
    Descriptor() = default;
    explicit Descriptor(int fd) : fd_(fd) {}
    ~Descriptor();
    Descriptor(Descriptor&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
    Descriptor& operator=(Descriptor&&) = delete;

    int get() const { return fd_; }
    explicit operator bool() const { return fd_ >= 0; }

private:
    int fd_ = -1;
};

// A pipe, a socket, a device or a directory in place of a file of records.
class NotRegular : public std::runtime_error {
public:
    NotRegular() : std::runtime_error("it is not a regular file") {}
};

// How a read ended: all bytes (error 0), or how far it came and why it stopped (ENODATA: the file ends there).
struct ReadOutcome {
    std::size_t bytes;
    int error;
};

// The system call underneath, with the signature of pread(2), so that tests can make a disk misbehave.
using PreadCall = ssize_t (*)(int fd, void* to, std::size_t bytes, off_t offset);

class File {
public:
    // Throws NotRegular, or std::system_error with the errno of open(2). A file system without O_DIRECT is read through
    // the page cache instead, without a word: the bytes are the same.
    File(const std::string& path, bool direct);

    // Reads `bytes` at `offset`, continuing short reads and retrying interrupted ones. Safe from several threads.
    ReadOutcome read(PreadCall call, void* to, std::size_t bytes, std::uint64_t offset) const;

    bool direct() const { return direct_works_.load(std::memory_order_relaxed); }

private:
    Descriptor buffered_;
    Descriptor direct_;
    mutable std::atomic<bool> direct_works_;
};

}  // namespace flashmoe
