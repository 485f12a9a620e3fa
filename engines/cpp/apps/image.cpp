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

// libpng's handle, freed when it goes out of scope.
struct Png : png_image {
    Png() : png_image{} { version = PNG_IMAGE_VERSION; }
    Png(const Png&) = delete;
    Png& operator=(const Png&) = delete;
    ~Png() { png_image_free(this); }
};

Error not_a_png(const std::string& file, const char* reason) {
    return {ErrorCode::bad_input, file + " is not a readable PNG (" + reason + "); convert it to PNG"};
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

// Returns the position in a line of `size` that position `at` of its mirrored continuation shows: 0 1 2 1 0 1 2 for 3.
std::size_t reflect(std::size_t at, std::size_t size) {
    if (size == 1) return 0;
    const std::size_t period = 2 * size - 2, within = at % period;
    return within < size ? within : period - within;
}

}  // namespace

Result<Image> read_png(const std::string& file, std::size_t max_side) {
    Png png;
    if (!png_image_begin_read_from_file(&png, file.c_str())) return not_a_png(file, png.message);
    if (png.width > max_side || png.height > max_side) {
        return Error{ErrorCode::bad_input, "Expected sides up to " + std::to_string(max_side) + " px in " + file +
                                               ", got " + std::to_string(png.height) + " × " +
                                               std::to_string(png.width) + "; cut it into tiles"};
    }
    png.format = PNG_FORMAT_RGB;
    Image image{png.height, png.width, std::vector<std::uint8_t>(PNG_IMAGE_SIZE(png))};
    const png_color white{255, 255, 255};
    if (!png_image_finish_read(&png, &white, image.rgb.data(), 0, nullptr) || PNG_IMAGE_FAILED(png)) {
        return not_a_png(file, png.message);
    }
    return image;
}

Result<void> write_png(const std::string& file, const std::vector<std::uint8_t>& grey, std::size_t height,
                       std::size_t width) {
    Png png;
    png.width = static_cast<png_uint_32>(width);
    png.height = static_cast<png_uint_32>(height);
    png.format = PNG_FORMAT_GRAY;
    const bool written = png_image_write_to_file(&png, partial(file).c_str(), 0, grey.data(), 0, nullptr) != 0;
    return commit(file, written, png.message);
}

Result<void> write_bytes(const std::string& file, const void* bytes, std::size_t size) {
    std::ofstream stream(partial(file), std::ios::binary);
    stream.write(static_cast<const char*>(bytes), static_cast<std::streamsize>(size));
    stream.close();
    return commit(file, stream.good(), std::strerror(errno));
}

Image mirror_pad(const Image& image, std::size_t height, std::size_t width) {
    Image larger{height, width, std::vector<std::uint8_t>(height * width * 3)};
    for (std::size_t y = 0; y < height; ++y) {
        const std::uint8_t* row = &image.rgb[reflect(y, image.height) * image.width * 3];
        for (std::size_t x = 0; x < width; ++x) {
            std::memcpy(&larger.rgb[(y * width + x) * 3], row + reflect(x, image.width) * 3, 3);
        }
    }
    return larger;
}
