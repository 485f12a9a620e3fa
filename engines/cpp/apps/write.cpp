// Writing PNG with libpng, TIFF with libtiff, and bytes.
#include <png.h>
#include <tiffio.h>

#include <algorithm>
#include <cerrno>
#include <csetjmp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

#include "formats.hpp"

using msal_deploy::Error;
using msal_deploy::ErrorCode;
using msal_deploy::Result;

namespace {

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

constexpr std::int32_t most_in_png = std::numeric_limits<std::uint16_t>::max();

// What a writer needs of libpng, which reports errors with longjmp: the functions that call it own nothing.
struct Writer {
    Stream stream;
    png_structp png;
    png_infop info;

    explicit Writer(const std::string& file)
        : stream(std::fopen(file.c_str(), "wb")),
          png(png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr)),
          info(png ? png_create_info_struct(png) : nullptr) {}
    Writer(const Writer&) = delete;
    Writer& operator=(const Writer&) = delete;
    ~Writer() { png_destroy_write_struct(&png, &info); }
};

// rows: 16 bits per pixel, the high byte first.
bool write_16_bits(Writer& writer, png_bytepp rows, png_uint_32 height, png_uint_32 width) {
    if (setjmp(png_jmpbuf(writer.png))) return false;
    png_init_io(writer.png, writer.stream.get());
    png_set_IHDR(writer.png, writer.info, width, height, 16, PNG_COLOR_TYPE_GRAY, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_rows(writer.png, writer.info, rows);
    png_write_png(writer.png, writer.info, PNG_TRANSFORM_IDENTITY, nullptr);
    return true;
}

bool write_png_labels(const std::string& file, const std::vector<std::int32_t>& labels, std::size_t height,
                      std::size_t width) {
    std::vector<png_byte> bytes;
    bytes.reserve(labels.size() * 2);
    for (const std::int32_t label : labels) {
        bytes.push_back(static_cast<png_byte>(label >> 8));
        bytes.push_back(static_cast<png_byte>(label & 0xFF));
    }
    std::vector<png_bytep> rows(height);
    for (std::size_t y = 0; y < height; ++y) rows[y] = bytes.data() + y * width * 2;
    Writer writer(partial(file));
    if (!writer.stream || !writer.info) return false;
    return write_16_bits(writer, rows.data(), static_cast<png_uint_32>(height), static_cast<png_uint_32>(width)) &&
           std::fclose(writer.stream.release()) == 0;
}

bool write_tiff_labels(const std::string& file, const std::vector<std::int32_t>& labels, std::size_t height,
                       std::size_t width) {
    TIFFSetErrorHandler(nullptr);
    TIFF* tiff = TIFFOpen(partial(file).c_str(), "w");
    if (tiff == nullptr) return false;
    TIFFSetField(tiff, TIFFTAG_IMAGEWIDTH, static_cast<std::uint32_t>(width));
    TIFFSetField(tiff, TIFFTAG_IMAGELENGTH, static_cast<std::uint32_t>(height));
    TIFFSetField(tiff, TIFFTAG_BITSPERSAMPLE, 32);
    TIFFSetField(tiff, TIFFTAG_SAMPLESPERPIXEL, 1);
    TIFFSetField(tiff, TIFFTAG_PHOTOMETRIC, PHOTOMETRIC_MINISBLACK);
    TIFFSetField(tiff, TIFFTAG_COMPRESSION, COMPRESSION_ADOBE_DEFLATE);
    TIFFSetField(tiff, TIFFTAG_ROWSPERSTRIP, TIFFDefaultStripSize(tiff, 0));
    bool written = true;
    std::vector<std::int32_t> row(width);  // libtiff may change what it is given
    for (std::size_t y = 0; y < height && written; ++y) {
        std::copy_n(&labels[y * width], width, row.begin());
        written = TIFFWriteScanline(tiff, row.data(), static_cast<std::uint32_t>(y), 0) == 1;
    }
    written = TIFFFlush(tiff) == 1 && written;
    TIFFClose(tiff);
    return written;
}

}  // namespace

Result<void> write_labels(const std::string& file, const std::vector<std::int32_t>& labels, std::size_t height,
                          std::size_t width) {
    const bool png = std::filesystem::path(file).extension() == ".png";
    const std::int32_t most = *std::max_element(labels.begin(), labels.end());
    if (png && most > most_in_png) {
        return Error{ErrorCode::bad_input, "Expected up to " + std::to_string(most_in_png) + " nuclei in " + file +
                                               ", got " + std::to_string(most) + "; name a .tif file"};
    }
    const bool written = (png ? write_png_labels : write_tiff_labels)(file, labels, height, width);
    return commit(file, written, std::strerror(errno));
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
