#ifndef _GNU_SOURCE
#define _GNU_SOURCE  // O_DIRECT
#endif
#include "io/file.hpp"

#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

#include "io/buffer.hpp"

namespace flashmoe {
namespace {

// Without O_NONBLOCK, opening a pipe would wait for somebody to write to it.
Descriptor open_regular(const std::string& path, int flags) {
    Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | flags));
    struct stat status {};
    if (file && (fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode))) throw NotRegular();
    return file;
}

Descriptor open_buffered(const std::string& path) {
    Descriptor file = open_regular(path, 0);
    if (!file && errno == ENXIO) throw NotRegular();  // what opening a socket gives
    if (!file) throw std::system_error(errno, std::generic_category(), path);
#ifdef POSIX_FADV_RANDOM
    // A record is read whole in one call; read-ahead would fetch bytes of experts that nobody asked for.
    posix_fadvise(file.get(), 0, 0, POSIX_FADV_RANDOM);
#endif
    return file;
}

Descriptor open_direct(const std::string& path) {
#ifdef O_DIRECT
    return open_regular(path, O_DIRECT);
#else
    (void)path;
    return {};
#endif
}

bool aligned(const void* to, std::size_t bytes, std::uint64_t offset) {
    return (reinterpret_cast<std::uintptr_t>(to) | bytes | offset) % kPage == 0;
}

}  // namespace

Descriptor::~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
}

File::File(const std::string& path, bool direct)
    : buffered_(open_buffered(path)),
      direct_(direct ? open_direct(path) : Descriptor()),
      direct_works_(static_cast<bool>(direct_)) {}

ReadOutcome File::read(PreadCall call, void* to, std::size_t bytes, std::uint64_t offset) const {
    auto* out = static_cast<std::byte*>(to);
    std::size_t got = 0;
    while (got < bytes) {
        // Asked again after every call: what a short direct read leaves may no longer be aligned.
        const bool direct = this->direct() && aligned(out + got, bytes - got, offset + got);
        const int fd = direct ? direct_.get() : buffered_.get();
        const ssize_t n = call(fd, out + got, bytes - got, static_cast<off_t>(offset + got));
        if (n > 0) {
            got += static_cast<std::size_t>(n);
        } else if (n == 0) {
            return {got, ENODATA};
        } else if (errno == EINVAL && direct) {
            direct_works_.store(false, std::memory_order_relaxed);  // some file systems refuse only when reading
        } else if (errno != EINTR) {
            return {got, errno};
        }
    }
    return {got, 0};
}

}  // namespace flashmoe
