// ImageView: an image in memory that belongs to the caller. Tiling: how an image of any size is computed.
//
//     msal_deploy::ImageView image(rgb.data(), 700, 1000);                                  // rows without gaps
//     msal_deploy::ImageView part(rgb.data() + (100 * 1000 + 50) * 3, 300, 400, 1000 * 3);  // 300 rows, 400 columns
//
// A cv::Mat of type CV_8UC3 (CV_8UC4: bgra), which may be a region of another one, needs no copy:
//
//     msal_deploy::ImageView view(mat.data, mat.rows, mat.cols, mat.step, msal_deploy::PixelFormat::bgr);
//
// Lifetime: a view does not own the pixels, which must stay valid and unchanged until the call returns.
// Errors: the constructor checks nothing; Segmenter::segment does.
#pragma once

#include <cstddef>
#include <cstdint>

namespace msal_deploy {

// The bytes of a pixel, in this order. Alpha is ignored.
enum class PixelFormat { rgb, bgr, rgba, bgra };

constexpr std::size_t bytes_per_pixel(PixelFormat format) noexcept {
    return format == PixelFormat::rgb || format == PixelFormat::bgr ? 3 : 4;
}

// `height` rows of `width` pixels.
struct ImageView {
    // pixels: the first pixel; for a region of a larger image, the first pixel of the region.
    // bytes_per_row: from the beginning of one row to the next, in the larger image for a region; 0: no gaps.
    ImageView(const std::uint8_t* pixels, std::size_t rows, std::size_t columns, std::size_t bytes_per_row = 0,
              PixelFormat pixel_format = PixelFormat::rgb) noexcept
        : data(pixels),
          height(rows),
          width(columns),
          row_bytes(bytes_per_row > 0 ? bytes_per_row : columns * bytes_per_pixel(pixel_format)),
          format(pixel_format) {}

    const std::uint8_t* data;
    std::size_t height;
    std::size_t width;
    std::size_t row_bytes;
    PixelFormat format;
};

// The tiles of an image. The defaults are those of Python's segment(), and so are the results, bit for bit.
struct Tiling {
    std::size_t tile = 512;    // largest height and width of a tile, a multiple of 32
    std::size_t overlap = 64;  // least number of pixels that neighbouring tiles share, below `tile`
    std::size_t batch = 1;     // tiles per inference; with streams = n, n tiles are computed in parallel if batch = n
};

}  // namespace msal_deploy
