// The readers of the single formats, and what they share.
#pragma once

#include <cstdio>
#include <memory>

#include "image.hpp"

msal_deploy::Result<Image> read_png(const std::string& file, std::size_t max_pixels);
msal_deploy::Result<Image> read_jpeg(const std::string& file, std::size_t max_pixels);
msal_deploy::Result<Image> read_tiff(const std::string& file, std::size_t max_pixels);

struct CloseStream {
    void operator()(std::FILE* stream) const { std::fclose(stream); }
};
using Stream = std::unique_ptr<std::FILE, CloseStream>;

// Errors that readers return. format: "PNG", "JPEG" or "TIFF".
msal_deploy::Error unreadable(const std::string& file, const char* format, const std::string& reason);
msal_deploy::Error unsupported(const std::string& file, const std::string& what);  // "has 16 bits per channel"
msal_deploy::Error too_large(const std::string& file, std::size_t height, std::size_t width, std::size_t max_pixels);

// Whether the description in an ICC profile names sRGB, in ASCII (version 2) or UTF-16 (version 4).
bool describes_srgb(const std::uint8_t* profile, std::size_t size);

// Whether EXIF data, a TIFF whose first directory may have an orientation, says that the image is not upright.
bool exif_rotates(const std::uint8_t* exif, std::size_t size);

// The same for the XML of XMP.
bool xmp_rotates(const std::string& xmp);
