// Reading and writing PNG files with libpng.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "msal_deploy/result.hpp"

struct Image {
    std::size_t height = 0, width = 0;
    std::vector<std::uint8_t> rgb;  // height × width × 3
};

// Reads a PNG as 8-bit RGB, with the same pixels as msal-deploy predict. Converts grey and palette images, and blends
// transparency with white. 16 bits per channel, colour profiles other than sRGB, rotated images and damaged files are
// errors.
// max_pixels: larger images are an error, before memory is allocated for them.
msal_deploy::Result<Image> read_png(const std::string& file, std::size_t max_pixels);

// Writes 8-bit grey, height × width. Writes the whole file or nothing.
msal_deploy::Result<void> write_png(const std::string& file, const std::vector<std::uint8_t>& grey, std::size_t height,
                                    std::size_t width);

// Writes bytes. Writes the whole file or nothing.
msal_deploy::Result<void> write_bytes(const std::string& file, const void* bytes, std::size_t size);
