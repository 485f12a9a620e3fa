#include "image.hpp"

#include <png.h>

#include <algorithm>
#include <cerrno>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

using msal_deploy::Error;
using msal_deploy::ErrorCode;
using msal_deploy::Result;

namespace {

Error not_a_png(const std::string& file, const std::string& reason) {
    return {ErrorCode::bad_input, file + " is not a readable PNG (" + reason + "); convert it to PNG"};
}

Error converts(const std::string& file, const char* what) {
    return {ErrorCode::bad_input, file + " " + what + "; convert it to 8-bit RGB"};
}

// What a reader needs of libpng. libpng reports errors with longjmp, so the functions that call it own nothing.
struct Reader {
    std::FILE* stream = nullptr;
    png_structp png = nullptr;
    png_infop info = nullptr;
    std::string message;

    explicit Reader(const std::string& file) : stream(std::fopen(file.c_str(), "rb")) {}
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;
    ~Reader() {
        png_destroy_read_struct(&png, &info, nullptr);
        if (stream) std::fclose(stream);
    }
};

[[noreturn]] void on_error(png_structp png, png_const_charp message) {
    static_cast<Reader*>(png_get_error_ptr(png))->message = message;
    png_longjmp(png, 1);
}

void on_warning(png_structp, png_const_charp) {}

// Reads up to the first pixels. A checksum that differs is an error in every chunk, as in Python.
bool read_header(Reader& reader) {
    if (setjmp(png_jmpbuf(reader.png))) return false;
    png_init_io(reader.png, reader.stream);
    png_set_crc_action(reader.png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    png_read_info(reader.png, reader.info);
    return true;
}

// Converts to RGB or RGBA; gAMA and cHRM do not change the values, as in Python.
bool start_pixels(Reader& reader) {
    if (setjmp(png_jmpbuf(reader.png))) return false;
    png_set_expand(reader.png);
    png_set_gray_to_rgb(reader.png);
    png_set_interlace_handling(reader.png);
    png_read_update_info(reader.png, reader.info);
    return true;
}

bool read_pixels(Reader& reader, png_bytepp rows) {
    if (setjmp(png_jmpbuf(reader.png))) return false;
    png_read_image(reader.png, rows);
    png_read_end(reader.png, reader.info);
    return true;
}

std::uint32_t big_endian(const png_byte* bytes, std::size_t count) {
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < count; ++i) value = value << 8 | bytes[i];
    return value;
}

bool contains(const png_byte* begin, const png_byte* end, const std::string& text) {
    return std::search(begin, end, text.begin(), text.end()) != end;
}

// Whether the description in an ICC profile names sRGB, in ASCII (version 2) or UTF-16 (version 4).
bool describes_srgb(const png_byte* profile, std::size_t size) {
    const std::size_t tags = size < 132 ? 0 : big_endian(profile + 128, 4);
    for (std::size_t i = 0; i < tags && 144 + 12 * i <= size; ++i) {
        const png_byte* tag = profile + 132 + 12 * i;
        const std::size_t offset = big_endian(tag + 4, 4), length = big_endian(tag + 8, 4);
        if (std::memcmp(tag, "desc", 4) != 0 || offset > size || length > size - offset) continue;
        const png_byte *begin = profile + offset, *end = begin + length;
        return contains(begin, end, "sRGB") || contains(begin, end, std::string("\0s\0R\0G\0B", 8));
    }
    return false;
}

bool has_other_colours(Reader& reader) {
    png_charp name = nullptr;
    png_bytep profile = nullptr;
    int compression = 0;
    png_uint_32 size = 0;
    return png_get_iCCP(reader.png, reader.info, &name, &compression, &profile, &size) && !describes_srgb(profile, size);
}

// The orientation in EXIF data: a TIFF whose first directory has the entry 0x112. 1 is upright.
std::uint32_t orientation(const png_byte* exif, std::size_t size) {
    if (size < 8) return 1;
    const bool little = exif[0] == 'I';
    const auto number = [&](std::size_t at, std::size_t count) {
        std::uint32_t value = 0;
        for (std::size_t i = 0; i < count; ++i) value = value << 8 | exif[little ? at + count - 1 - i : at + i];
        return value;
    };
    const std::size_t directory = number(4, 4);
    if (directory > size - 2) return 1;
    const std::size_t entries = number(directory, 2);
    for (std::size_t i = 0; i < entries && directory + 14 + 12 * i <= size; ++i) {
        const std::size_t entry = directory + 2 + 12 * i;
        if (number(entry, 2) == 0x112) return number(entry + 8, 2);
    }
    return 1;
}

bool is_rotated(Reader& reader) {
    png_bytep exif = nullptr;
    png_uint_32 size = 0;
    if (png_get_eXIf_1(reader.png, reader.info, &size, &exif)) {
        const std::uint32_t turned = orientation(exif, size);
        return turned >= 2 && turned <= 8;
    }
    png_textp texts = nullptr;
    const int count = png_get_text(reader.png, reader.info, &texts, nullptr);
    for (int i = 0; i < count; ++i) {
        const std::string key = texts[i].key, text = texts[i].text ? texts[i].text : "";
        const std::size_t found = key == "XML:com.adobe.xmp" ? text.find("tiff:Orientation") : std::string::npos;
        if (key == "Raw profile type exif") return true;
        if (found != std::string::npos && text.find_first_of("2345678", found) - found < 20) return true;
    }
    return false;
}

// Blends RGBA with white, rounded as Python's Pillow does.
std::vector<std::uint8_t> over_white(const std::vector<std::uint8_t>& rgba) {
    std::vector<std::uint8_t> rgb;
    rgb.reserve(rgba.size() / 4 * 3);
    for (std::size_t i = 0; i < rgba.size(); i += 4) {
        const std::uint32_t alpha = rgba[i + 3];
        for (std::size_t channel = 0; channel < 3; ++channel) {
            const std::uint32_t sum = (rgba[i + channel] * alpha + 255 * (255 - alpha) + 128) << 7;
            rgb.push_back(static_cast<std::uint8_t>(((sum >> 8) + sum) >> 15));
        }
    }
    return rgb;
}

std::string partial(const std::string& file) {
    return file + ".partial";
}

// Renames the partial file to its final name, or removes it if writing failed.
Result<void> commit(const std::string& file, bool written, const std::string& reason) {
    std::error_code error;
    if (written) std::filesystem::rename(partial(file), file, error);
    if (written && !error) return {};
    const std::string why = written ? error.message() : reason;
    std::filesystem::remove(partial(file), error);
    return Error{ErrorCode::missing_requirement,
                 file + " is not writable (" + why + "); check the folder and the disk"};
}

}  // namespace

Result<Image> read_png(const std::string& file, std::size_t max_pixels) {
    std::error_code error;
    if (std::filesystem::exists(file, error) && !std::filesystem::is_regular_file(file, error)) {
        return not_a_png(file, "not a regular file");
    }
    Reader reader(file);
    if (!reader.stream) return not_a_png(file, std::strerror(errno));
    reader.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &reader, on_error, on_warning);
    reader.info = reader.png ? png_create_info_struct(reader.png) : nullptr;
    if (!reader.info) return not_a_png(file, "out of memory");
    if (!read_header(reader)) return not_a_png(file, reader.message);
    const std::size_t height = png_get_image_height(reader.png, reader.info);
    const std::size_t width = png_get_image_width(reader.png, reader.info);
    if (width > max_pixels / height) {
        return Error{ErrorCode::bad_input, "Expected up to " + std::to_string(max_pixels) + " pixels in " + file +
                                               ", got " + std::to_string(height) + " × " + std::to_string(width) +
                                               "; cut it into smaller images"};
    }
    const int depth = png_get_bit_depth(reader.png, reader.info);
    const bool grey = png_get_color_type(reader.png, reader.info) == PNG_COLOR_TYPE_GRAY;
    if (depth == 16) return converts(file, "has 16 bits per channel");
    if (grey && depth < 8 && png_get_valid(reader.png, reader.info, PNG_INFO_tRNS)) {
        return converts(file, "has a transparent grey level of less than 8 bits");
    }
    if (has_other_colours(reader)) return converts(file, "has a colour profile that is not sRGB");
    if (!start_pixels(reader)) return not_a_png(file, reader.message);
    const std::size_t channels = png_get_channels(reader.png, reader.info);
    std::vector<std::uint8_t> pixels(height * width * channels);
    std::vector<png_bytep> rows(height);
    for (std::size_t y = 0; y < height; ++y) rows[y] = pixels.data() + y * width * channels;
    if (!read_pixels(reader, rows.data())) return not_a_png(file, reader.message);
    if (is_rotated(reader)) return converts(file, "is stored rotated (EXIF)");
    return Image{height, width, channels == 4 ? over_white(pixels) : std::move(pixels)};
}

Result<void> write_png(const std::string& file, const std::vector<std::uint8_t>& grey, std::size_t height,
                       std::size_t width) {
    png_image png{};
    png.version = PNG_IMAGE_VERSION;
    png.width = static_cast<png_uint_32>(width);
    png.height = static_cast<png_uint_32>(height);
    png.format = PNG_FORMAT_GRAY;
    const bool written = png_image_write_to_file(&png, partial(file).c_str(), 0, grey.data(), 0, nullptr) != 0;
    png_image_free(&png);
    return commit(file, written, png.message);
}

Result<void> write_bytes(const std::string& file, const void* bytes, std::size_t size) {
    std::ofstream stream(partial(file), std::ios::binary);
    stream.write(static_cast<const char*>(bytes), static_cast<std::streamsize>(size));
    stream.close();
    return commit(file, stream.good(), std::strerror(errno));
}
