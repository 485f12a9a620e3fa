#include <algorithm>
#include <cstring>

#include "formats.hpp"

namespace {

std::uint32_t big_endian(const std::uint8_t* bytes, std::size_t count) {
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < count; ++i) value = value << 8 | bytes[i];
    return value;
}

bool contains(const std::uint8_t* begin, const std::uint8_t* end, const std::string& text) {
    return std::search(begin, end, text.begin(), text.end()) != end;
}

}  // namespace

bool describes_srgb(const std::uint8_t* profile, std::size_t size) {
    const std::size_t tags = size < 132 ? 0 : big_endian(profile + 128, 4);
    for (std::size_t i = 0; i < tags && 144 + 12 * i <= size; ++i) {
        const std::uint8_t* tag = profile + 132 + 12 * i;
        const std::size_t offset = big_endian(tag + 4, 4), length = big_endian(tag + 8, 4);
        if (std::memcmp(tag, "desc", 4) != 0 || offset > size || length > size - offset) continue;
        const std::uint8_t *begin = profile + offset, *end = begin + length;
        return contains(begin, end, "sRGB") || contains(begin, end, std::string("\0s\0R\0G\0B", 8));
    }
    return false;
}

bool exif_rotates(const std::uint8_t* exif, std::size_t size) {
    if (size < 8) return false;
    const bool little = exif[0] == 'I';
    const auto number = [&](std::size_t at, std::size_t count) {
        std::uint32_t value = 0;
        for (std::size_t i = 0; i < count; ++i) value = value << 8 | exif[little ? at + count - 1 - i : at + i];
        return value;
    };
    const std::size_t directory = number(4, 4);
    if (directory > size - 2) return false;
    const std::size_t entries = number(directory, 2);
    for (std::size_t i = 0; i < entries && directory + 14 + 12 * i <= size; ++i) {
        const std::size_t entry = directory + 2 + 12 * i;
        if (number(entry, 2) != 0x112) continue;
        const std::uint32_t orientation = number(entry + 8, number(entry + 2, 2) == 4 ? 4 : 2);
        return orientation >= 2 && orientation <= 8;
    }
    return false;
}

bool xmp_rotates(const std::string& xmp) {
    const std::size_t found = xmp.find("tiff:Orientation");
    return found != std::string::npos && xmp.find_first_of("2345678", found) - found < 20;
}
