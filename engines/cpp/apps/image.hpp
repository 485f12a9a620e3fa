// PNG in and out, by libpng.
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

// Reads any PNG as 8-bit RGB: grey and palettes are converted, transparency is laid over white.
// largest: sides beyond it are refused before memory is taken for them.
msal_deploy::Result<Image> read_png(const std::string& file, std::size_t largest);

// Writes 8-bit grey, height × width; the file is there whole or not at all.
msal_deploy::Result<void> write_png(const std::string& file, const std::vector<std::uint8_t>& grey, std::size_t height,
                                    std::size_t width);

// Writes bytes; the file is there whole or not at all.
msal_deploy::Result<void> write_bytes(const std::string& file, const void* bytes, std::size_t size);

// Returns the image continued by mirroring at the bottom and on the right, so that its sides are `height` and `width`.
Image mirrored(const Image& image, std::size_t height, std::size_t width);
