#include "image.hpp"

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "formats.hpp"

using msal_deploy::Error;
using msal_deploy::ErrorCode;
using msal_deploy::Result;

namespace {

// Returns the first bytes of a file.
Result<std::string> first_bytes(const std::string& file) {
    std::error_code error;
    if (std::filesystem::exists(file, error) && !std::filesystem::is_regular_file(file, error)) {
        return Error{ErrorCode::bad_input, file + " is not a regular file; name an image"};
    }
    const Stream stream(std::fopen(file.c_str(), "rb"));
    if (!stream) {
        return Error{ErrorCode::bad_input, file + " cannot be opened (" + std::strerror(errno) + "); check the name"};
    }
    std::array<char, 8> bytes{};
    return std::string(bytes.data(), std::fread(bytes.data(), 1, bytes.size(), stream.get()));
}

bool starts_with(const std::string& text, const std::string& start) {
    return text.compare(0, start.size(), start) == 0;
}

}  // namespace

Error unreadable(const std::string& file, const char* format, const std::string& reason) {
    return {ErrorCode::bad_input, file + " is not a readable " + format + " (" + reason + "); copy or save it again"};
}

Error unsupported(const std::string& file, const std::string& what) {
    return {ErrorCode::bad_input, file + " " + what + "; convert it to 8-bit RGB"};
}

Error too_large(const std::string& file, std::size_t height, std::size_t width, std::size_t max_pixels) {
    return {ErrorCode::bad_input, "Expected up to " + std::to_string(max_pixels) + " pixels in " + file + ", got " +
                                      std::to_string(height) + " × " + std::to_string(width) +
                                      "; cut it into smaller images"};
}

Result<Image> read_image(const std::string& file, std::size_t max_pixels) {
    const Result<std::string> bytes = first_bytes(file);
    if (!bytes) return bytes.error();
    if (starts_with(*bytes, "\x89PNG")) return read_png(file, max_pixels);
    if (starts_with(*bytes, "\xff\xd8")) return read_jpeg(file, max_pixels);
    for (const char* start : {"II*", "II+", "MM"}) {
        if (starts_with(*bytes, start)) return read_tiff(file, max_pixels);
    }
    return Error{ErrorCode::bad_input, file + " is not a PNG, JPEG or TIFF; convert it to one of them"};
}
