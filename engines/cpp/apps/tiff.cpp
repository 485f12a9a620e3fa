// Reading TIFF and BigTIFF with libtiff.
#include <tiffio.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdarg>
#include <filesystem>

#include "formats.hpp"

using msal_deploy::Error;
using msal_deploy::ErrorCode;
using msal_deploy::Result;

namespace {

constexpr std::size_t max_ratio = 5000;  // bytes of pixels for each byte of a file: more than any codec reaches
constexpr double least_mpp = 0.05, most_mpp = 10;  // µm/px of a microscope; 72 dpi, which editors write, is 353

std::string first_message;  // libtiff has one handler for the whole program, which has one thread

void on_error(const char*, const char* format, std::va_list arguments) {
    if (!first_message.empty()) return;
    std::array<char, 200> text{};
    std::vsnprintf(text.data(), text.size(), format, arguments);
    first_message = text.data();
}

struct CloseTiff {
    void operator()(TIFF* tiff) const { TIFFClose(tiff); }
};
using Tiff = std::unique_ptr<TIFF, CloseTiff>;

Tiff open(const std::string& file) {
    first_message.clear();
    TIFFSetErrorHandler(on_error);
    TIFFSetWarningHandler(nullptr);
    return Tiff(TIFFOpen(file.c_str(), "r"));
}

Error unreadable_tiff(const std::string& file) {
    return unreadable(file, "TIFF", first_message.empty() ? "damaged" : first_message);
}

template <class T>
T field(TIFF* tiff, std::uint32_t tag, T missing) {
    T value{};
    return TIFFGetFieldDefaulted(tiff, tag, &value) ? value : missing;
}

// Returns what has to be converted before this program can read the image, or an empty string.
std::string unusual(TIFF* tiff) {
    const auto bits = field<std::uint16_t>(tiff, TIFFTAG_BITSPERSAMPLE, 1);
    const auto kind = field<std::uint16_t>(tiff, TIFFTAG_SAMPLEFORMAT, SAMPLEFORMAT_UINT);
    const auto compression = field<std::uint16_t>(tiff, TIFFTAG_COMPRESSION, COMPRESSION_NONE);
    const auto colours = field<std::uint16_t>(tiff, TIFFTAG_PHOTOMETRIC, PHOTOMETRIC_MASK);
    if (bits > 8) return "has " + std::to_string(bits) + " bits per channel";
    if (kind != SAMPLEFORMAT_UINT && kind != SAMPLEFORMAT_VOID) return "has pixels that are not unsigned numbers";
    if (compression == COMPRESSION_OJPEG) return "is compressed as JPEG in an outdated way";
    if (colours == PHOTOMETRIC_SEPARATED) return "is CMYK";
    if (colours > PHOTOMETRIC_PALETTE && !(colours == PHOTOMETRIC_YCBCR && compression == COMPRESSION_JPEG)) {
        return "has colours that are neither RGB, grey nor a palette";
    }
    if (field<std::uint16_t>(tiff, TIFFTAG_ORIENTATION, ORIENTATION_TOPLEFT) != ORIENTATION_TOPLEFT) {
        return "is stored rotated";
    }
    std::uint32_t size = 0;
    const std::uint8_t* profile = nullptr;
    const bool has_profile = TIFFGetField(tiff, TIFFTAG_ICCPROFILE, &size, &profile) != 0;
    return has_profile && !describes_srgb(profile, size) ? "has a colour profile that is not sRGB" : "";
}

// Goes through the pages and back to the first. Smaller versions of it, the levels of a pyramid, do not count.
bool has_other_pages(TIFF* tiff) {
    bool found = false;
    while (!found && TIFFReadDirectory(tiff) != 0) {
        found = (field<std::uint32_t>(tiff, TIFFTAG_SUBFILETYPE, 0) & FILETYPE_REDUCEDIMAGE) == 0;
    }
    return TIFFSetDirectory(tiff, 0) == 0 || found;
}

// Returns whether the header promises more pixels, or longer strips or tiles, than the file has bytes for.
bool promises_too_much(TIFF* tiff, const std::string& file, std::size_t pixels) {
    std::error_code error;
    const std::uint64_t size = std::filesystem::file_size(file, error);
    if (pixels / max_ratio > size) return true;
    const std::uint32_t count = TIFFIsTiled(tiff) ? TIFFNumberOfTiles(tiff) : TIFFNumberOfStrips(tiff);
    for (std::uint32_t at = 0; at < count; ++at) {
        const std::uint64_t start = TIFFGetStrileOffset(tiff, at), length = TIFFGetStrileByteCount(tiff, at);
        if (start > size || length > size - start) return true;
    }
    return false;
}

std::optional<double> resolution(TIFF* tiff) {
    const auto unit = field<std::uint16_t>(tiff, TIFFTAG_RESOLUTIONUNIT, RESUNIT_NONE);
    const double microns = unit == RESUNIT_INCH ? 25400 : unit == RESUNIT_CENTIMETER ? 10000 : 0;
    const auto x = static_cast<double>(field(tiff, TIFFTAG_XRESOLUTION, 0.0F));
    const auto y = static_cast<double>(field(tiff, TIFFTAG_YRESOLUTION, 0.0F));
    if (!(x > 1) || !(y > 1)) return {};
    const double across = microns / x, down = microns / y;
    if (std::min(across, down) < least_mpp || std::max(across, down) > most_mpp) return {};
    return (across + down) / 2;
}

// Drops the alpha of RGBA, and returns whether it was opaque. libtiff has multiplied the colours with it.
bool to_rgb(const std::vector<std::uint32_t>& rgba, std::vector<std::uint8_t>& rgb) {
    bool opaque = true;
    for (const std::uint32_t pixel : rgba) {
        opaque = opaque && TIFFGetA(pixel) == 255;
        rgb.push_back(static_cast<std::uint8_t>(TIFFGetR(pixel)));
        rgb.push_back(static_cast<std::uint8_t>(TIFFGetG(pixel)));
        rgb.push_back(static_cast<std::uint8_t>(TIFFGetB(pixel)));
    }
    return opaque;
}

}  // namespace

Result<Image> read_tiff(const std::string& file, std::size_t max_pixels) {
    const Tiff tiff = open(file);
    if (!tiff) return unreadable_tiff(file);
    const auto height = field<std::uint32_t>(tiff.get(), TIFFTAG_IMAGELENGTH, 0);
    const auto width = field<std::uint32_t>(tiff.get(), TIFFTAG_IMAGEWIDTH, 0);
    if (height == 0 || width == 0) return unreadable_tiff(file);
    if (width > max_pixels / height) return too_large(file, height, width, max_pixels);
    const std::string wrong = unusual(tiff.get());
    if (!wrong.empty()) return unsupported(file, wrong);
    if (has_other_pages(tiff.get())) return unsupported(file, "has several pages");
    const std::size_t pixels = std::size_t{height} * width;
    if (!first_message.empty()) return unreadable_tiff(file);
    if (promises_too_much(tiff.get(), file, pixels)) return unreadable(file, "TIFF", "it is too short for its pixels");
    std::vector<std::uint32_t> rgba(pixels);
    if (!TIFFReadRGBAImageOriented(tiff.get(), width, height, rgba.data(), ORIENTATION_TOPLEFT, 1)) {
        return unreadable_tiff(file);
    }
    Image image{height, width, {}, resolution(tiff.get())};
    image.rgb.reserve(pixels * 3);
    if (!to_rgb(rgba, image.rgb)) return unsupported(file, "has transparent pixels");
    return image;
}
