#ifndef _GNU_SOURCE
#define _GNU_SOURCE  // mlock2
#endif
#include "io/buffer.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <limits>
#include <new>
#include <stdexcept>

namespace flashmoe {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t round_up(std::size_t value, std::size_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

Buffer::Buffer(std::size_t bytes, bool huge) : size_(bytes) {
    const std::size_t alignment = huge ? kHugePage : kPage;
    if (bytes > std::numeric_limits<std::size_t>::max() / 2) throw std::bad_alloc();
    mapped_ = round_up(bytes + kPadding, alignment) + (huge ? kHugePage : 0);
    mapping_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping_ == MAP_FAILED) throw std::bad_alloc();
    const auto address = reinterpret_cast<std::uintptr_t>(mapping_);
    data_ = static_cast<std::byte*>(mapping_) + (round_up(address, alignment) - address);
#ifdef MADV_HUGEPAGE
    if (huge) madvise(mapping_, mapped_, MADV_HUGEPAGE);  // advice: a kernel without huge pages serves small ones
#endif
}

Buffer::~Buffer() { munmap(mapping_, mapped_); }

void Buffer::release(std::size_t position, std::size_t bytes) {
    if (position > size_ || bytes > size_ - position) throw std::invalid_argument("the range is not in the buffer");
    const std::size_t begin = round_up(position, kPage), end = (position + bytes) / kPage * kPage;
    if (begin >= end) return;
    munlock(data_ + begin, end - begin);  // locked pages stay otherwise; under a sanitizer this does nothing
    if (madvise(data_ + begin, end - begin, MADV_DONTNEED) == 0) return;
#ifdef MADV_DONTNEED_LOCKED
    madvise(data_ + begin, end - begin, MADV_DONTNEED_LOCKED);
#endif
}

bool Buffer::lock() {
#ifdef MLOCK_ONFAULT
    return mlock2(data_, size_, MLOCK_ONFAULT) == 0;
#else
    return false;
#endif
}

}  // namespace flashmoe
