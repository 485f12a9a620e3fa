// Reading JPEG with libjpeg. Every warning of the decoder is an error: where it warns, it has guessed pixels.
#include <csetjmp>
#include <cstdio>  // jpeglib.h needs it, but does not include it
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include <jpeglib.h>

#include "formats.hpp"

using msal_deploy::Result;

namespace {

constexpr unsigned int longest_marker = 0xFFFF;

// What a reader needs of libjpeg. Errors are reported with longjmp, so the functions that call it own nothing.
struct Reader {
    Stream stream;
    jpeg_decompress_struct jpeg{};
    jpeg_error_mgr errors{};
    std::jmp_buf failed{};
    char message[JMSG_LENGTH_MAX] = "out of memory";

    explicit Reader(const std::string& file) : stream(std::fopen(file.c_str(), "rb")) {}
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;
    ~Reader() { jpeg_destroy_decompress(&jpeg); }
};

[[noreturn]] void on_error(j_common_ptr jpeg) {
    auto* reader = static_cast<Reader*>(jpeg->client_data);
    jpeg->err->format_message(jpeg, reader->message);
    std::longjmp(reader->failed, 1);
}

// level: -1 for a warning, more for what is only of interest to a developer.
void on_message(j_common_ptr jpeg, int level) {
    if (level < 0) on_error(jpeg);
}

bool read_header(Reader& reader) {
    if (setjmp(reader.failed)) return false;
    reader.jpeg.err = jpeg_std_error(&reader.errors);
    reader.errors.error_exit = on_error;
    reader.errors.emit_message = on_message;
    reader.jpeg.client_data = &reader;
    jpeg_create_decompress(&reader.jpeg);
    jpeg_stdio_src(&reader.jpeg, reader.stream.get());
    jpeg_save_markers(&reader.jpeg, JPEG_APP0 + 1, longest_marker);  // EXIF and XMP
    jpeg_save_markers(&reader.jpeg, JPEG_APP0 + 2, longest_marker);  // the colour profile
    jpeg_read_header(&reader.jpeg, TRUE);
    return true;
}

// Joins the parts of the profile in memory that the caller frees.
bool read_profile(Reader& reader, JOCTET** profile, unsigned int* size) {
    if (setjmp(reader.failed)) return false;
    jpeg_read_icc_profile(&reader.jpeg, profile, size);
    return true;
}

bool read_pixels(Reader& reader, std::uint8_t* rgb) {
    if (setjmp(reader.failed)) return false;
    reader.jpeg.out_color_space = JCS_RGB;
    jpeg_start_decompress(&reader.jpeg);
    while (reader.jpeg.output_scanline < reader.jpeg.output_height) {
        JSAMPROW row = rgb + std::size_t{reader.jpeg.output_scanline} * reader.jpeg.output_width * 3;
        jpeg_read_scanlines(&reader.jpeg, &row, 1);
    }
    jpeg_finish_decompress(&reader.jpeg);
    return true;
}

bool is_rotated(const Reader& reader) {
    const std::string exif("Exif\0\0", 6), xmp("http://ns.adobe.com/xap/1.0/\0", 29);
    for (jpeg_saved_marker_ptr marker = reader.jpeg.marker_list; marker != nullptr; marker = marker->next) {
        const std::string content(reinterpret_cast<const char*>(marker->data), marker->data_length);
        if (marker->marker != JPEG_APP0 + 1) continue;
        if (content.compare(0, exif.size(), exif) == 0 &&
            exif_rotates(marker->data + exif.size(), marker->data_length - exif.size())) {
            return true;
        }
        if (content.compare(0, xmp.size(), xmp) == 0 && xmp_rotates(content)) return true;
    }
    return false;
}

// Whether there is a colour profile that is not sRGB.
bool has_other_colours(const JOCTET* profile, unsigned int size) {
    return profile != nullptr && !describes_srgb(profile, size);
}

}  // namespace

Result<Image> read_jpeg(const std::string& file, std::size_t max_pixels) {
    Reader reader(file);
    if (!reader.stream) return unreadable(file, "JPEG", std::strerror(errno));
    if (!read_header(reader)) return unreadable(file, "JPEG", reader.message);
    const std::size_t height = reader.jpeg.image_height, width = reader.jpeg.image_width;
    if (width > max_pixels / height) return too_large(file, height, width, max_pixels);
    if (reader.jpeg.num_components == 4) return unsupported(file, "is CMYK");
    if (is_rotated(reader)) return unsupported(file, "is stored rotated (EXIF)");
    JOCTET* profile = nullptr;
    unsigned int size = 0;
    const bool complete = read_profile(reader, &profile, &size);
    const std::unique_ptr<JOCTET, decltype(&std::free)> owner(profile, std::free);
    if (!complete) return unreadable(file, "JPEG", reader.message);
    if (has_other_colours(profile, size)) return unsupported(file, "has a colour profile that is not sRGB");
    std::vector<std::uint8_t> rgb(height * width * 3);
    if (!read_pixels(reader, rgb.data())) return unreadable(file, "JPEG", reader.message);
    return Image{height, width, std::move(rgb), {}};
}
