// A temporary file of records whose bytes follow from their place, and how to read and check them.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/reader.hpp"
#include "tests/check.hpp"

namespace records {

using namespace flashmoe;

inline constexpr std::size_t kRecord = 3 * kPage;
inline constexpr std::size_t kRecords = 40;

inline std::byte expected(std::size_t at) { return static_cast<std::byte>((at * 2654435761u) >> 13); }

// A file of kRecords records, gone when the test ends.
struct TemporaryFile {
    explicit TemporaryFile(std::size_t bytes = kRecord * kRecords) {
        std::string name = (std::filesystem::temp_directory_path() / "flashmoe-XXXXXX").string();
        const int fd = mkstemp(name.data());
        CHECK(fd >= 0);
        ::close(fd);
        path = name;
        std::vector<char> content(bytes);
        for (std::size_t i = 0; i < bytes; ++i) content[i] = static_cast<char>(expected(i));
        std::ofstream(path, std::ios::binary).write(content.data(), static_cast<std::streamsize>(bytes));
    }
    ~TemporaryFile() { std::filesystem::remove(path); }
    std::string path;
};

inline std::shared_ptr<Buffer> make_buffer(std::size_t records = kRecords) {
    return std::make_shared<Buffer>(records * kRecord, false);
}

inline bool holds_record(const Buffer& buffer, std::size_t slot, std::size_t record) {
    for (std::size_t i = 0; i < kRecord; ++i)
        if (buffer.data()[slot * kRecord + i] != expected(record * kRecord + i)) return false;
    return true;
}

inline std::optional<ReadError> error_of(Reader& reader, Ticket ticket) {
    try {
        reader.wait(ticket);
    } catch (const ReadError& error) {
        return error;
    }
    return std::nullopt;
}

inline Ticket submit(Reader& reader, int file, std::size_t record, const std::shared_ptr<Buffer>& buffer,
                     std::size_t slot, Priority priority = Priority::demand) {
    const Place place{record * kRecord, slot * kRecord};
    return reader.submit(file, kRecord, {&place, 1}, buffer, priority);
}

}  // namespace records
