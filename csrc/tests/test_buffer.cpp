// The memory that reads land in.
#include <algorithm>
#include <cstdint>
#include <new>
#include <stdexcept>

#include "io/buffer.hpp"
#include "tests/check.hpp"

using namespace flashmoe;

TEST(buffer_is_zeroed_and_readable_past_its_end) {
    for (const bool huge : {false, true}) {
        Buffer buffer(5 * kPage, huge);
        CHECK_EQUAL(reinterpret_cast<std::uintptr_t>(buffer.data()) % kPage, 0u);
        for (std::size_t i = 0; i < buffer.size() + Buffer::kPadding; ++i) CHECK(buffer.data()[i] == std::byte{0});
        buffer.data()[buffer.size() - 1] = std::byte{1};
    }
}

TEST(buffer_refuses_what_no_address_space_holds) {
    CHECK_THROWS(std::bad_alloc, Buffer(std::size_t{1} << 62, true));
    CHECK_THROWS(std::bad_alloc, Buffer(~std::size_t{0}, true));
}

TEST(buffer_gives_whole_pages_back_and_keeps_the_rest) {
    for (const bool huge : {false, true}) {
        Buffer buffer(5 * kPage, huge);
        std::fill(buffer.data(), buffer.data() + buffer.size(), std::byte{7});
        buffer.lock();  // as far as the limits allow: locked or not, they go
        buffer.release(kPage - 1, 3 * kPage);
        for (std::size_t i = 0; i < buffer.size(); ++i)
            CHECK(buffer.data()[i] == (i / kPage == 1 || i / kPage == 2 ? std::byte{0} : std::byte{7}));
        buffer.release(kPage + 1, 100);
        CHECK_THROWS(std::invalid_argument, buffer.release(5 * kPage, 1));
        CHECK_THROWS(std::invalid_argument, buffer.release(0, ~std::size_t{0}));
    }
}
