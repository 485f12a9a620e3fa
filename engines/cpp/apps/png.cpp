// Reading PNG with libpng. gAMA and cHRM do not change the values, as in Python.
#include <png.h>

#include <cerrno>
#include <csetjmp>
#include <cstring>
#include <utility>

#include "formats.hpp"

using msal_deploy::Error;
using msal_deploy::Result;

namespace {

// What a reader needs of libpng. libpng reports errors with longjmp, so the functions that call it own nothing.
struct Reader {
    Stream stream;
    png_structp png = nullptr;
    png_infop info = nullptr;
    std::string message;

    explicit Reader(const std::string& file) : stream(std::fopen(file.c_str(), "rb")) {}
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;
    ~Reader() { png_destroy_read_struct(&png, &info, nullptr); }
};

[[noreturn]] void on_error(png_structp png, png_const_charp message) {
    static_cast<Reader*>(png_get_error_ptr(png))->message = message;
    png_longjmp(png, 1);
}

void on_warning(png_structp, png_const_charp) {}

// Reads up to the first pixels. A checksum that differs is an error in every chunk, as in Python.
bool read_header(Reader& reader) {
    if (setjmp(png_jmpbuf(reader.png))) return false;
    png_init_io(reader.png, reader.stream.get());
    png_set_crc_action(reader.png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    png_read_info(reader.png, reader.info);
    return true;
}

// Converts to RGB or RGBA.
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

bool has_other_colours(Reader& reader) {
    png_charp name = nullptr;
    png_bytep profile = nullptr;
    int compression = 0;
    png_uint_32 size = 0;
    return png_get_iCCP(reader.png, reader.info, &name, &compression, &profile, &size) && !describes_srgb(profile, size);
}

bool is_rotated(Reader& reader) {
    png_bytep exif = nullptr;
    png_uint_32 size = 0;
    if (png_get_eXIf_1(reader.png, reader.info, &size, &exif)) return exif_rotates(exif, size);
    png_textp texts = nullptr;
    const int count = png_get_text(reader.png, reader.info, &texts, nullptr);
    for (int i = 0; i < count; ++i) {
        const std::string key = texts[i].key, text = texts[i].text ? texts[i].text : "";
        if (key == "Raw profile type exif" || (key == "XML:com.adobe.xmp" && xmp_rotates(text))) return true;
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

}  // namespace

Result<Image> read_png(const std::string& file, std::size_t max_pixels) {
    Reader reader(file);
    if (!reader.stream) return unreadable(file, "PNG", std::strerror(errno));
    reader.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &reader, on_error, on_warning);
    reader.info = reader.png ? png_create_info_struct(reader.png) : nullptr;
    if (!reader.info) return unreadable(file, "PNG", "out of memory");
    if (!read_header(reader)) return unreadable(file, "PNG", reader.message);
    const std::size_t height = png_get_image_height(reader.png, reader.info);
    const std::size_t width = png_get_image_width(reader.png, reader.info);
    if (width > max_pixels / height) return too_large(file, height, width, max_pixels);
    const int depth = png_get_bit_depth(reader.png, reader.info);
    const bool grey = png_get_color_type(reader.png, reader.info) == PNG_COLOR_TYPE_GRAY;
    if (depth == 16) return unsupported(file, "has 16 bits per channel");
    if (grey && depth < 8 && png_get_valid(reader.png, reader.info, PNG_INFO_tRNS)) {
        return unsupported(file, "has a transparent grey level of less than 8 bits");
    }
    if (has_other_colours(reader)) return unsupported(file, "has a colour profile that is not sRGB");
    if (!start_pixels(reader)) return unreadable(file, "PNG", reader.message);
    const std::size_t channels = png_get_channels(reader.png, reader.info);
    std::vector<std::uint8_t> pixels(height * width * channels);
    std::vector<png_bytep> rows(height);
    for (std::size_t y = 0; y < height; ++y) rows[y] = pixels.data() + y * width * channels;
    if (!read_pixels(reader, rows.data())) return unreadable(file, "PNG", reader.message);
    if (is_rotated(reader)) return unsupported(file, "is stored rotated (EXIF)");
    return Image{height, width, channels == 4 ? over_white(pixels) : std::move(pixels), {}};
}
