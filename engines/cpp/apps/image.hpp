// Reading images: PNG, JPEG and TIFF. Writing masks, labels and probabilities.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "msal_deploy/result.hpp"

struct Image {
    std::size_t height = 0, width = 0;
    std::vector<std::uint8_t> rgb;             // height × width × 3
    std::optional<double> microns_per_pixel;  // if the file is a TIFF that has a resolution of a microscope
};

// Reads an image as 8-bit RGB, with the same pixels as msal-deploy predict. The first bytes decide the format, not the
// name. Converts grey and palette images; blends transparency of a PNG with white. What msal-deploy would have to
// convert in another way is an error: more than 8 bits per channel, CMYK, colour profiles other than sRGB, rotated
// images, several pages. So is a damaged file.
// max_pixels: larger images are an error, before memory is allocated for them.
msal_deploy::Result<Image> read_image(const std::string& file, std::size_t max_pixels);

// Writes 8-bit grey, height × width. Writes the whole file or nothing.
msal_deploy::Result<void> write_png(const std::string& file, const std::vector<std::uint8_t>& grey, std::size_t height,
                                    std::size_t width);

// Writes labels, height × width: 16-bit grey if the name ends in .png, else a 32-bit TIFF. Writes the whole file or
// nothing. More than 65535 labels in a PNG are an error.
msal_deploy::Result<void> write_labels(const std::string& file, const std::vector<std::int32_t>& labels,
                                       std::size_t height, std::size_t width);

// Writes bytes. Writes the whole file or nothing.
msal_deploy::Result<void> write_bytes(const std::string& file, const void* bytes, std::size_t size);
