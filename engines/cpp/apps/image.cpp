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

}  // namespace

Result<Image> read_png(const std::string& file, std::size_t max_pixels) {
    Png png;
    if (!png_image_begin_read_from_file(&png, file.c_str())) return not_a_png(file, png.message);
    if (png.width > max_pixels / png.height) {
        return Error{ErrorCode::bad_input, "Expected up to " + std::to_string(max_pixels) + " pixels in " + file +
                                               ", got " + std::to_string(png.height) + " × " +
                                               std::to_string(png.width) + "; cut it into smaller images"};
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
