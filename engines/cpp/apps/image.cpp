#include "image.hpp"

#include <png.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>

using msal_deploy::Error;
using msal_deploy::ErrorCode;
using msal_deploy::Result;

namespace {

// libpng's handle: freed however a function is left.
struct Png : png_image {
    Png() : png_image{} { version = PNG_IMAGE_VERSION; }
    Png(const Png&) = delete;
    Png& operator=(const Png&) = delete;
    ~Png() { png_image_free(this); }
};

Error bad(const std::string& sentence) {
    return {ErrorCode::bad_input, sentence};
}

std::string beside(const std::string& file) {
    return file + ".partial";
}

// Gives a written file its name, or removes it.
Result<void> settle(const std::string& file, bool good, const std::string& why) {
    std::error_code error;
    if (good) std::filesystem::rename(beside(file), file, error);
    if (good && !error) return {};
    const std::string said = good ? error.message() : why;
    std::filesystem::remove(beside(file), error);
    return Error{ErrorCode::environment_lacks, file + " cannot be written: " + said};
}

// Returns where position `at` of a mirrored line of `size` lies: 0 1 2 1 0 1 2 for a size of 3.
std::size_t reflect(std::size_t at, std::size_t size) {
    if (size == 1) return 0;
    const std::size_t period = 2 * size - 2, within = at % period;
    return within < size ? within : period - within;
}

}  // namespace

Result<Image> read_png(const std::string& file, std::size_t largest) {
    Png png;
    if (!png_image_begin_read_from_file(&png, file.c_str()))
        return bad(file + " cannot be read as PNG: " + png.message);
    if (png.width > largest || png.height > largest) {
        return bad(file + " has " + std::to_string(png.height) + " × " + std::to_string(png.width) +
                   " px; the graph takes sides up to " + std::to_string(largest) + ", so cut it into tiles");
    }
    png.format = PNG_FORMAT_RGB;
    Image image{png.height, png.width, std::vector<std::uint8_t>(PNG_IMAGE_SIZE(png))};
    const png_color white{255, 255, 255};
    if (!png_image_finish_read(&png, &white, image.rgb.data(), 0, nullptr) || PNG_IMAGE_FAILED(png)) {
        return bad(file + " cannot be read as PNG: " + png.message);
    }
    return image;
}

Result<void> write_png(const std::string& file, const std::vector<std::uint8_t>& grey, std::size_t height,
                       std::size_t width) {
    Png png;
    png.width = static_cast<png_uint_32>(width);
    png.height = static_cast<png_uint_32>(height);
    png.format = PNG_FORMAT_GRAY;
    const bool good = png_image_write_to_file(&png, beside(file).c_str(), 0, grey.data(), 0, nullptr) != 0;
    return settle(file, good, png.message);
}

Result<void> write_bytes(const std::string& file, const void* bytes, std::size_t size) {
    std::ofstream stream(beside(file), std::ios::binary);
    stream.write(static_cast<const char*>(bytes), static_cast<std::streamsize>(size));
    stream.close();
    return settle(file, stream.good(), std::strerror(errno));
}

Image mirrored(const Image& image, std::size_t height, std::size_t width) {
    Image larger{height, width, std::vector<std::uint8_t>(height * width * 3)};
    for (std::size_t y = 0; y < height; ++y) {
        const std::uint8_t* row = &image.rgb[reflect(y, image.height) * image.width * 3];
        for (std::size_t x = 0; x < width; ++x) {
            std::memcpy(&larger.rgb[(y * width + x) * 3], row + reflect(x, image.width) * 3, 3);
        }
    }
    return larger;
}
