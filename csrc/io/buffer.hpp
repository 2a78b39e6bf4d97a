// Memory that reads land in: one anonymous mapping, aligned for O_DIRECT and huge pages, readable past its end.
#pragma once

#include <cstddef>

namespace flashmoe {

// Alignment at which O_DIRECT is attempted: no file system in use asks for more.
inline constexpr std::size_t kPage = 4096;

class Buffer {
public:
    // Bytes past the end that kernels may read (never write): prefetches and whole-vector loads overshoot.
    static constexpr std::size_t kPadding = kPage;

    // Zeroed bytes that take memory only when touched. With `huge`, aligned to 2 MiB and in huge pages where the
    // system grants them. Throws std::bad_alloc.
    Buffer(std::size_t bytes, bool huge);
    ~Buffer();
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    std::byte* data() const { return data_; }
    std::size_t size() const { return size_; }

    // Pins the pages in memory, each from when it is first touched; false where the limits of the process forbid it
    // or the system cannot.
    bool lock();

    // Gives back the memory of the pages that lie wholly in [position, position + bytes), which nobody may be reading
    // into: they are zeroed and take memory again when touched. Throws std::invalid_argument.
    void release(std::size_t position, std::size_t bytes);

private:
    void* mapping_;
    std::size_t mapped_;
    std::byte* data_;
    std::size_t size_;
};

}  // namespace flashmoe
